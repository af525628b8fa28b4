"""`kill-actor`: ends an actor by its name."""

from __future__ import annotations

import argparse
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format
from ray_rs.scripts._state import add_common

__all__ = ["add"]

# Of an actor that is over.
_DEAD = 4


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("kill-actor", help="end a named actor")
    parser.add_argument("--name", required=True, help="its name")
    parser.add_argument("--namespace", help="where it has that name (default: wherever there is one)")
    parser.add_argument("--no-restart", action="store_true", help="it is not made again, whatever its max_restarts")
    add_format(parser)
    add_common(parser)
    parser.set_defaults(run=_kill)


def _kill(arguments: argparse.Namespace) -> int:
    import ray_rs
    from ray_rs import _elsewhere
    from ray_rs.util.state._rows import Source

    source = Source(arguments.address, arguments.timeout)
    found = [
        actor
        for actor in source.answer(source.observer.actors)
        if actor["name"] == arguments.name
        and actor["state"] != _DEAD
        and arguments.namespace in (None, actor["namespace"])
    ]
    if not found:
        raise ValueError(f"There is no living actor of the name {arguments.name!r}. See ray_rs list actors.")
    if len(found) > 1:
        names = ", ".join(sorted(actor["namespace"] for actor in found))
        raise ValueError(f"Several namespaces have an actor of that name: {names}. Say which by --namespace.")
    (actor,) = found
    # Only a job may end actors; this one is over at once.
    with _elsewhere.as_driver(source):
        handle = ray_rs.get_actor(arguments.name, actor["namespace"])
        ray_rs.kill(handle, no_restart=arguments.no_restart)
    told = {"actor_id": actor["actor_id"], "name": arguments.name, "namespace": actor["namespace"]}
    _output.say(f"Killed the actor {arguments.name} ({actor['actor_id']}).", told, arguments.format)
    return 0
