"""`debug`: attaches to a task or actor that stops at a breakpoint."""

from __future__ import annotations

import argparse
from typing import Any

from ray_rs import _debugger
from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("debug", help="attach to a task or actor that stops at a breakpoint")
    parser.add_argument("number", nargs="?", type=int, help="which, if there are several")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    add_format(parser)
    parser.add_argument(
        "--address", help="which session: host:port or its directory (default: RAY_ADDRESS, the newest)"
    )
    parser.set_defaults(run=_debug)


def _debug(arguments: argparse.Namespace) -> int:
    found = _debugger.waiting(arguments.address)
    if arguments.format != "default":
        if not arguments.list:
            raise ValueError("--format goes with --list: a debugger is for people")
        print(_output.structured(found, arguments.format))
        return 0
    if not found:
        print("Nothing stops at a breakpoint on this machine.")
        return 0 if arguments.list else 1
    for number, told in enumerate(found):
        print(f"{number}: {_debugger.hint(told)}")
    if arguments.list:
        return 0
    number = arguments.number
    if number is None:
        if len(found) > 1:
            raise ValueError("There are several: ray_rs debug NUMBER")
        number = 0
    if not 0 <= number < len(found):
        raise ValueError(f"There is no number {number}.")
    print(end="", flush=True)
    _debugger.attach(found[number]["path"])
    return 0
