"""`symmetric-run`: one command line for all machines of a batch job; one of them runs the program."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from ray_rs import _joining, _processes
from ray_rs.scripts._nodes import add_node_options, launched

__all__ = ["add"]

# Ray's name: how many seconds nodes wait for each other.
_LIMIT_VARIABLE = "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"
_LIMIT_S = 30.0
_POLL_S = 0.1
# How long the head waits for the others to leave; its end is theirs in any case.
_LET_GO_S = 10.0
# As `drain` has it.
_PREEMPTION = 2

# What says something of the head alone, and what a node says that joins.
_OF_THE_HEAD = {
    "ray_client_server_port": None,
    "tls": False,
    "autoscaling_config": None,
    "dashboard_port": None,
}


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser(
        "symmetric-run",
        help="run a command on a cluster of all machines that run this same line",
        usage="ray_rs symmetric-run --address HOST:PORT [--min-nodes N] [options] -- CMD",
        description="For batch systems (Slurm, MPI), which start the same line on every machine: the one that has the "
        "address starts the head, runs the command, and stops the head; the others join, and end with the cluster. "
        "All need the cluster's token: --token-file, or its text in " + _joining.TOKEN_VARIABLE + ".",
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", required=True, help="where the head is to listen, the same everywhere"
    )
    parser.add_argument(
        "--min-nodes", type=_nodes, default=1, metavar="N", help="the command begins when so many nodes are there"
    )
    add_node_options(parser)
    parser.add_argument("entrypoint", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command")
    parser.set_defaults(run=_symmetric_run)


def _nodes(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of nodes")
    return int(text)


def _symmetric_run(arguments: argparse.Namespace) -> int:
    command = arguments.entrypoint
    if command[:1] != ["--"] or len(command) < 2:
        raise ValueError("No command is given: put it at the end, behind two dashes, as in -- python script.py.")
    limit_s = _limit_s()
    address = _joining.numeric(arguments.address)
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if arguments.min_nodes > 1:
        if socket.getaddrinfo(host, None)[0][4][0] in ("127.0.0.1", "::1"):
            raise ValueError(f"{arguments.address} is this machine on every machine; other nodes need another address.")
        if not arguments.token_file and not os.environ.get(_joining.TOKEN_VARIABLE):
            raise ValueError(
                "The nodes of a cluster know each other by its token: pass the same to all, by --token-file or in "
                f"{_joining.TOKEN_VARIABLE}; `openssl rand -hex 32` makes one."
            )
    signal.signal(signal.SIGTERM, _interrupt)
    if _is_mine(host):
        arguments.head, arguments.address, arguments.host, arguments.port = True, None, host, int(port)
        return _lead(arguments, command[1:], limit_s)
    arguments.head, arguments.address, arguments.host, arguments.port = False, address, _way_to(host), None
    for name, value in _OF_THE_HEAD.items():
        setattr(arguments, name, value)
    return _follow(arguments, limit_s)


def _limit_s() -> float:
    text = os.environ.get(_LIMIT_VARIABLE) or str(_LIMIT_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(f"{_LIMIT_VARIABLE}={text!r} is no number of seconds.")
    return seconds


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _is_mine(host: str) -> bool:
    """Whether the address is one of this machine's: nothing can be bound to another's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind((host, 0))
        except OSError:
            return False
    return True


def _way_to(host: str) -> str:
    """The address of this machine from which packets to the host go, at which the host reaches it as well."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        try:
            way.connect((host, 9))  # sends nothing
        except OSError as error:
            raise ConnectionError(f"There is no way from this machine to {host}: {error}.") from None
        return str(way.getsockname()[0])


@contextlib.contextmanager
def _node(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], str]]:
    session, address = launched(arguments)
    try:
        yield session, address
    finally:
        _processes.stop_node(session["session_dir"])


# ---------------------------------------------------------------------------------------------------------------- head


def _lead(arguments: argparse.Namespace, command: list[str], limit_s: float) -> int:
    if shutil.which(command[0]) is None:
        raise ValueError(f"The command cannot be run: there is no program {command[0]!r}.")
    with _node(arguments) as (session, address):
        _say(f"The head listens at {address}.")
        token_path = f"{session['session_dir']}/token"
        try:
            _await_nodes(address, token_path, arguments.min_nodes, limit_s)
            return _run(command, {**os.environ, "RAY_ADDRESS": address})
        finally:
            _let_go(address, token_path)


def _await_nodes(address: str, token_path: str, wanted: int, limit_s: float) -> None:
    until, told = time.monotonic() + limit_s, 0
    while True:
        there = sum(node["alive"] for node in _processes.list_nodes(address, token_path))
        if there != told and wanted > 1:
            _say(f"{there} of {wanted} nodes are there.")
            told = there
        if there >= wanted:
            return
        if time.monotonic() > until:
            raise ConnectionError(
                f"Only {there} of {wanted} nodes have come within {limit_s:g} s ({_LIMIT_VARIABLE}); what the others "
                "have printed says why, if they were started."
            )
        time.sleep(_POLL_S)


def _let_go(address: str, token_path: str) -> None:
    """Lets all other nodes leave at once, so that their lines end with this one."""
    until = time.monotonic() + _LET_GO_S
    with contextlib.suppress(ConnectionError):
        nodes = _processes.list_nodes(address, token_path)
        for node in nodes:
            if node["alive"] and not node["is_head"]:
                _processes.drain_node(address, token_path, node["node_id"], _PREEMPTION, "the command has ended", 1)
        while time.monotonic() < until:
            nodes = _processes.list_nodes(address, token_path)
            if not any(node["alive"] and not node["is_head"] for node in nodes):
                return
            time.sleep(_POLL_S)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Runs the command to its end; returns its status as a shell gives it."""
    process = subprocess.Popen(command, env=environment)
    asked = False
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            # A terminal has told the command as well; whoever has told only this process means the command. Once more
            # is for one that does not end.
            process.send_signal(signal.SIGKILL if asked else signal.SIGTERM)
            asked = True
    return status if status >= 0 else 128 - status


# ------------------------------------------------------------------------------------------------------------- joining


def _follow(arguments: argparse.Namespace, limit_s: float) -> int:
    with _joining.token_file(arguments.address, arguments.token_file) as token_path:
        _await_head(arguments.address, str(token_path), limit_s)
        with _node(arguments) as (session, address):
            _say(f"This node is part of the cluster at {address}.")
            watch = os.pidfd_open(session["raylet_pid"])
            try:
                # The head lets it go when the command has ended; without a head it ends by itself after a minute.
                select.select([watch], [], [])
            finally:
                os.close(watch)
            if _is_missed(address, str(token_path), session["node_id"]):
                words = _joining.last_words(session["session_dir"], ["raylet"])
                raise ConnectionError(f"The node has ended before the cluster. {words}")
    _say("The cluster has ended.")
    return 0


def _await_head(address: str, token_path: str, limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while True:
        try:
            _processes.list_nodes(address, token_path)
            return
        except ConnectionError as error:
            if "does not know" in str(error) or time.monotonic() > until:
                _joining.look_at(address, token_path)
        time.sleep(_POLL_S)


def _is_missed(address: str, token_path: str, node_id: str) -> bool:
    """Whether the cluster goes on, and has not let this node go."""
    try:
        nodes = _processes.list_nodes(address, token_path)
    except ConnectionError:
        return False
    return any(node["node_id"] == node_id and not node["drain"] for node in nodes)


def _say(text: str) -> None:
    # What the command prints has stdout to itself.
    print(text, file=sys.stderr, flush=True)
