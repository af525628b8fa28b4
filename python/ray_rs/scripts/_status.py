"""`status` and `health-check`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._state import add_common
from ray_rs.util.state._rows import Source

__all__ = ["add"]

# Of placement groups: those that have no place yet, and the words for their strategies.
_PENDING_GROUP = (0, 1, 4)
_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
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


def _demands(described: dict[str, Any]) -> list[str]:
    """What tasks and actors wait for, by what they ask for; under each why, for every name.

    An owner asks for some workers of those that its tasks need: the tasks that wait are counted where they are owned.
    """
    owned = Counter(
        (process["process"]["worker_id"], task["class"], task["name"])
        for process in described["processes"]
        for task in process["tasks"]
        if task["state"] == "PENDING_NODE_ASSIGNMENT" and task["type"] == "NORMAL_TASK"
    )
    by_class: dict[tuple[str, int], dict[str, int]] = {}
    for (worker, kind, name), count in owned.items():
        by_class.setdefault((worker, kind), {})[name] = count
    demands: dict[tuple[str, bool], dict[str, tuple[int, str]]] = {}
    for row in described["waiting"]:
        names = {row["name"]: 1} if row["actor_id"] else by_class.pop((row["worker_id"], row["class"]), {})
        shape = "{" + ", ".join(f"'{name}': {amount}" for name, amount in sorted(row["resources"].items())) + "}"
        about = demands.setdefault((shape, row["infeasible"]), {})
        for name, count in names.items():
            earlier, why = about.get(name, (0, row["why"]))
            about[name] = earlier + count, why
    lines = []
    for (shape, infeasible), about in demands.items():
        # Requests of which the owner had no task any more when it was asked are of nobody.
        if count := sum(count for count, _ in about.values()):
            lines.append(f" {shape}: {count}+ pending tasks/actors{' (infeasible)' if infeasible else ''}")
            lines += [f"  {name or '(no name)'}: {count}, {why}" for name, (count, why) in about.items()]
    return lines


def _group_demands(groups: list[dict[str, Any]]) -> list[str]:
    alike: Counter[tuple[str, str, str]] = Counter()
    for group in groups:
        shapes = Counter(str(bundle["resources"]) for bundle in group["bundles"])
        bundles = ", ".join(f"{shape} * {count}" for shape, count in shapes.items())
        alike[bundles, _STRATEGIES[group["strategy"]], group["detail"]] += 1
    return [
        f" {bundles} ({strategy}): {count}+ pending placement groups, {detail}"
        for (bundles, strategy, detail), count in alike.items()
    ]


def _status(arguments: argparse.Namespace) -> int:
    source = Source(arguments.address, arguments.timeout)
    nodes = [node for node in source.observer.nodes() if node["alive"]]
    described = source.observer.describe_processes(waiting=True)
    groups = [group for group in source.observer.placement_groups() if group["state"] in _PENDING_GROUP]
    print(f"======== Autoscaler status: {_output.now()} ========")
    print("Node status\n---------------------------------------------------------------")
    print("Active:")
    for node in nodes:
        print(f" 1 {node['node_id']} ({node['address']})")
    print("Pending:\n (no pending nodes)\nRecent failures:\n (no failures)\n")
    print("Resources\n---------------------------------------------------------------")
    print("Total Usage:", *_usage(nodes), sep="\n")
    print("\nFrom request_resources:\n (none)\nPending Demands:")
    print(*(_demands(described) + _group_demands(groups) or [" (no resource demands)"]), sep="\n")
    if arguments.verbose:
        for node in nodes:
            print(f"\nNode: {node['node_id']}", " Usage:", *(f"  {line.strip()}" for line in _usage([node])), sep="\n")
    return 0
