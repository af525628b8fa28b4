"""`why`: why tasks, objects and actors do not go on, as `ray.why` says it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format
from ray_rs.scripts._state import add_common
from ray_rs.util.state import _tasks
from ray_rs.util.state._rows import Source

__all__ = ["add"]

# Hexadecimal digits of each kind of id.
_DIGITS = {56: "object", 48: "task", 32: "actor"}
# Names that a message lists.
_MOST_NAMES = 8


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("why", help="say why a task, an object or an actor does not go on, or where it is")
    parser.add_argument(
        "target", help="the id of a task, an object or an actor; or the name of tasks, an actor, or its class"
    )
    parser.add_argument("--limit", type=int, default=10, help="explain so many of those with the name (default: 10)")
    add_format(parser)
    add_common(parser)
    parser.set_defaults(run=_why)


def _why(arguments: argparse.Namespace) -> int:
    if arguments.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {arguments.limit}")
    source = Source(arguments.address, arguments.timeout)
    found = source.answer(lambda: list(_targets(source, arguments.target)))
    if not found:
        print(f"Error: {_not_found(source, arguments.target)}", file=sys.stderr)
        return 1
    shown = found[: arguments.limit]
    stories = source.answer(lambda: [{**each, "why": source.observer.why(each["id"])} for each in shown])
    if arguments.format != "default":
        print(_output.structured(stories, arguments.format))
        return 0
    print("\n\n".join(story["why"] for story in stories))
    if len(found) > len(shown):
        print(f"\nAnd {len(found) - len(shown)} more of that name (see --limit).")
    return 0


def _targets(source: Source, target: str) -> Iterator[dict[str, str]]:
    """What the target may mean: kind, id and name of each."""
    digits = target.lower()
    if len(digits) in _DIGITS and not set(digits) - set("0123456789abcdef"):
        yield {"kind": _DIGITS[len(digits)], "id": digits, "name": ""}
        return
    for task in _unfinished(source):
        if target in (task["name"], task["name"].rpartition(".")[2]):
            yield {"kind": "task", "id": task["task_id"], "name": task["name"]}
    for actor in source.observer.actors():
        if target in (actor["name"], actor["class_name"]) and actor["state"] != 4:
            yield {"kind": "actor", "id": actor["actor_id"], "name": actor["name"] or actor["class_name"]}


def _unfinished(source: Source) -> list[dict[str, Any]]:
    tasks = [task for process in source.observer.describe_processes()["processes"] for task in process["tasks"]]
    return sorted(tasks, key=lambda task: task["submitted_us"])


def _not_found(source: Source, target: str) -> str:
    ended = _tasks.page(source, [("name", "=", target), ("end_time_ms", "!=", None)], limit=1).total
    if ended:
        return (
            f"no unfinished task or living actor is called {target!r}; {ended} tasks of that name have ended (see "
            f"ray_rs list tasks -f name={target})."
        )
    names = list(dict.fromkeys(task["name"] for task in source.answer(lambda: _unfinished(source))))
    known = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    return f"no unfinished task or living actor is called {target!r}. Unfinished tasks: {known or 'none'}."
