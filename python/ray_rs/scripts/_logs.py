"""`logs`: which files there are, and what stands in them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format
from ray_rs.scripts._state import add_common
from ray_rs.util.state import logs
from ray_rs.util.state._rows import Source

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("logs", help="list log files, or print one")
    parser.add_argument(
        "what", nargs="?", default="cluster", help="cluster, actor, worker, task, job, or names of files"
    )
    parser.add_argument("glob", nargs="?", help="with cluster: names of files; * and ? stand for others")
    parser.add_argument("--id", help="of the actor, task or job")
    parser.add_argument("-a", "--attempt-number", type=int, default=0, help="of the task")
    parser.add_argument("--pid", type=int, help="of the worker")
    parser.add_argument("--err", action="store_true", help="what was written to stderr")
    parser.add_argument("--follow", action="store_true", help="go on with what is written later")
    parser.add_argument("--tail", type=int, default=1000, help="so many of the last lines; -1: all (default: 1000)")
    parser.add_argument("--encoding", default="utf-8")
    add_format(parser)
    parser.add_argument("--node-id", "-id", dest="node_id")
    parser.add_argument("--node-ip", "-ip", dest="node_ip")
    add_common(parser)
    parser.set_defaults(run=_logs)


def _logs(arguments: argparse.Namespace) -> int:
    what = arguments.what
    where = {"node_id": arguments.node_id, "node_ip": arguments.node_ip, "timeout": arguments.timeout}
    if what in ("actor", "task", "worker", "job"):
        option, wanted = ("--pid", arguments.pid) if what == "worker" else ("--id", arguments.id)
        if wanted is None:
            raise ValueError(f"ray_rs logs {what} needs {option}")
        locator = {{"worker": "pid", "job": "submission_id"}.get(what, f"{what}_id"): wanted}
        return _show(arguments, {**where, **locator})
    glob = arguments.glob if what == "cluster" else what
    found = logs.list_logs(arguments.address, glob_filter=glob, **where)
    names = [name for group in found.values() for name in group]
    if glob is not None and len(names) == 1 and arguments.format == "default":
        return _show(arguments, {**where, "filename": names[0]})
    if not names:
        directory = Source(arguments.address, arguments.timeout).directory
        print(f"Error: there is no log file {glob!r} in {directory}/logs.", file=sys.stderr)
        return 1
    if arguments.format != "default":
        print(_output.structured(found, arguments.format))
        return 0
    for category, group in found.items():
        print(f"{category}:", *(f"  {name}" for name in group), sep="\n")
    return 0


def _show(arguments: argparse.Namespace, locator: dict[str, Any]) -> int:
    pieces = logs.get_log(
        arguments.address,
        follow=arguments.follow,
        tail=arguments.tail,
        suffix="err" if arguments.err else "out",
        encoding=arguments.encoding,
        errors="replace",
        attempt_number=arguments.attempt_number,
        **locator,
    )
    for piece in pieces:
        print(piece, end="", flush=True)
    return 0
