"""`stack`: where the threads of workers are."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format
from ray_rs.scripts._state import add_common
from ray_rs.util.state._rows import Source

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("stack", help="print where the Python threads of this machine's workers are")
    parser.add_argument("pid", nargs="*", type=int, help="only of these processes (default: of all workers)")
    parser.add_argument("--flame", metavar="FILE.svg", help="write a flame graph of one process instead")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the flame graph: look for so long (default: 5)")
    add_format(parser)
    add_common(parser)
    parser.set_defaults(run=_stack)


def _stack(arguments: argparse.Namespace) -> int:
    from ray_rs import _stacks

    source = Source(arguments.address, arguments.timeout)
    described = source.answer(lambda: source.observer.describe_processes(limit=100))
    workers = {each["process"]["pid"]: _what(each) for each in described["processes"] if not each["is_driver"]}
    # One that is too busy to say what it is about is what is looked for, most likely.
    workers |= {each["pid"]: "does not say what it runs" for each in described["silent"]}
    unknown = [pid for pid in arguments.pid if pid not in workers]
    for pid in unknown:
        print(f"Error: there is no worker with pid {pid}.", file=sys.stderr)
    if arguments.flame:
        return 1 if unknown else _flame(arguments, workers)
    rows = []
    for pid in sorted(arguments.pid or workers):
        if pid in workers:
            try:
                rows.append({"pid": pid, "runs": workers[pid], "stack": _stacks.dump(pid)})
            except _stacks.StackError as error:
                rows.append({"pid": pid, "runs": workers[pid], "error": str(error)})
    if arguments.format != "default":
        print(_output.structured(rows, arguments.format))
    else:
        texts = [f"== {row['pid']}: {row['runs']}\n{row.get('stack') or row.get('error')}" for row in rows]
        if texts or not unknown:
            print("\n".join(texts) or "There are no workers.")
    return 1 if unknown or any("error" in row for row in rows) else 0


def _flame(arguments: argparse.Namespace, workers: dict[int, str]) -> int:
    from ray_rs import _flame

    if len(arguments.pid) != 1:
        raise ValueError(f"--flame is of one process: ray_rs stack PID --flame {arguments.flame}")
    if not 0 < arguments.seconds <= 3600:
        raise ValueError(f"--seconds must be more than 0 and at most 3600, got {arguments.seconds:g}")
    (pid,) = arguments.pid
    root = _flame.sampled(pid, arguments.seconds)
    with open(arguments.flame, "w", encoding="utf-8") as file:
        file.write(_flame.svg(root, f"process {pid}, {workers[pid]}"))
    told = {"path": arguments.flame, "samples": root.samples}
    _output.say(f"Flame graph of {root.samples} samples written to {arguments.flame}.", told, arguments.format)
    return 0


def _what(process: dict[str, Any]) -> str:
    names = {task["task_id"]: task["name"] for task in process["tasks"]}
    runs = [task["name"] or names.get(task["task_id"], "") for task in process["executing"]]
    actor = process["actor"]
    words = [f"actor {actor['class_name']}"] if actor else []
    words += [f"runs {', '.join(filter(None, runs)) or 'a task'}"] if runs else ["runs nothing"]
    return ", ".join(words)
