"""`status` and `health-check`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._state import add_common
from ray_rs.util.state._rows import Source

__all__ = ["add"]

_IN_BYTES = ("memory", "object_store_memory")


def add(commands: Any) -> None:
    """Adds the commands.

    Args:
        commands: What `argparse` calls subparsers.
    """
    status = commands.add_parser("status", help="nodes, resources in use, and what waits for some")
    status.add_argument("-v", "--verbose", action="store_true", help="also each node's resources")
    add_common(status)
    status.set_defaults(run=_status)
    health = commands.add_parser("health-check", help="exit with 0 if a session answers, else with 1")
    add_common(health)
    health.set_defaults(run=_health)


def _health(arguments: argparse.Namespace) -> int:
    source = Source(arguments.address, arguments.timeout)
    # Both daemons have a part in it.
    source.rows("nodes")
    source.rows("jobs")
    return 0


def _amount(name: str, used: float, total: float) -> str:
    if name in _IN_BYTES:
        return f"{used / 2**30:.2f}GiB/{total / 2**30:.2f}GiB {name}"
    return f"{used}/{total} {name}"


def _usage(nodes: list[dict[str, Any]]) -> list[str]:
    total: Counter[str] = Counter()
    free: Counter[str] = Counter()
    for node in nodes:
        total.update(node["total"])
        free.update(node["available"])
    # Those of nodes and bundles are the engine's own.
    names = sorted(name for name in total if not name.startswith("node:") and "_group_" not in name)
    return [f" {_amount(name, total[name] - free[name], total[name])}" for name in names]


def _status(arguments: argparse.Namespace) -> int:
    source = Source(arguments.address, arguments.timeout)
    nodes = [node for node in source.observer.nodes() if node["alive"]]
    waiting = source.observer.describe_processes(tasks=False, waiting=True)["waiting"]
    print(f"======== Autoscaler status: {_output.now()} ========")
    print("Node status\n---------------------------------------------------------------")
    print("Active:")
    for node in nodes:
        print(f" 1 {node['node_id']} ({node['address']})")
    print("Pending:\n (no pending nodes)\nRecent failures:\n (no failures)\n")
    print("Resources\n---------------------------------------------------------------")
    print("Total Usage:", *_usage(nodes), sep="\n")
    print("\nFrom request_resources:\n (none)\nPending Demands:")
    # One row for each that waits; alike ones are one line.
    alike = Counter((row["name"] or "(no name)", row["why"], row["infeasible"]) for row in waiting)
    for (name, why, infeasible), count in alike.items():
        print(f" {name}: {count}+ pending{' (infeasible)' if infeasible else ''}: {why}")
    if not alike:
        print(" (no resource demands)")
    if arguments.verbose:
        for node in nodes:
            print(f"\nNode: {node['node_id']}", " Usage:", *(f"  {line.strip()}" for line in _usage([node])), sep="\n")
    return 0
