"""`drain`: a node leaves its cluster in order."""

from __future__ import annotations

import argparse
from typing import Any

from ray_rs import _processes
from ray_rs.scripts import _output
from ray_rs.scripts._nodes import token_file
from ray_rs.scripts._parser import add_format

__all__ = ["add"]

_IDLE, _PREEMPTION = 1, 2
_REASONS = {
    "idle": _IDLE,
    "preemption": _PREEMPTION,
    "DRAIN_NODE_REASON_IDLE_TERMINATION": _IDLE,
    "DRAIN_NODE_REASON_PREEMPTION": _PREEMPTION,
}


def add(commands: Any) -> None:
    """Adds the commands.

    Args:
        commands: What `argparse` calls subparsers.
    """
    drain = commands.add_parser(
        "drain",
        aliases=["drain-node"],
        help="let a node take nothing new, and leave when what it runs has ended",
        description="Asks a node to leave its cluster: nothing new is placed there, what runs ends in its time, actors "
        "that may be restarted move to other nodes, and then the node ends. Values in its object store keep it "
        "until nobody refers to them any more; at the deadline they are lost.",
    )
    drain.add_argument("--node-id", required=True, help="the node, or the first digits of its id")
    drain.add_argument(
        "--reason",
        choices=sorted(_REASONS),
        default="preemption",
        metavar="REASON",
        help="idle (it agrees only if nothing needs it) or preemption (the default); Ray's names are known, too",
    )
    drain.add_argument("--reason-message", default="", help="for those who wonder where the node went")
    drain.add_argument(
        "--deadline-remaining-seconds",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="it leaves after so long, whatever still runs (default: it waits until that has ended)",
    )
    drain.add_argument("--address", metavar="HOST:PORT", help="of the cluster (default: the newest on this machine)")
    drain.add_argument("--token-file", help="file with the cluster's token, as for `start`")
    add_format(drain)
    drain.set_defaults(run=_drain)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    # Ray's own default is as good as for ever.
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _drain(arguments: argparse.Namespace) -> int:
    with token_file(arguments) as (address, token_path):
        node = _find(_processes.list_nodes(address, token_path), arguments.node_id)
        remaining_ms = min(int(arguments.deadline_remaining_seconds * 1000), 2**53)
        if arguments.deadline_remaining_seconds and not remaining_ms:
            remaining_ms = 1
        rejection = _processes.drain_node(
            address, token_path, node, _REASONS[arguments.reason], arguments.reason_message, remaining_ms
        )
    if rejection:
        raise ValueError(f"The drain request is not accepted: {rejection}.")
    text = f"Node {node} takes nothing new, and leaves when what it runs has ended. `ray_rs status` shows it till then."
    _output.say(text, {"node_id": node, "is_accepted": True}, arguments.format)
    return 0


def _find(nodes: list[dict[str, Any]], wanted: str) -> str:
    found = [node["node_id"] for node in nodes if node["alive"] and node["node_id"].startswith(wanted.lower())]
    if wanted and len(found) == 1:
        return str(found[0])
    if found:
        raise ValueError(f"Several nodes have ids that begin with {wanted!r}: {', '.join(found)}.")
    living = ", ".join(node["node_id"] for node in nodes if node["alive"])
    raise ValueError(f"There is no living node {wanted!r} in this cluster. Its nodes are: {living}.")
