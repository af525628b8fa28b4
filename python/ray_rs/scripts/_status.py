"""`status` and `health-check`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._state import add_common
from ray_rs.util.state._rows import Source, drain_text

__all__ = ["add", "text_of", "waiting_of"]

# Of placement groups: those that have no place yet, and the words for their strategies.
_PENDING_GROUP = (0, 1, 4)
_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_IN_BYTES = ("memory", "object_store_memory")
_FAILURES = 5
_ELSEWHERE = "(of whom is not known)"
_NO_NODE = "(actors without a node)"


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


def _name(node: dict[str, Any]) -> str:
    return f"{node['node_id']} ({', '.join(filter(None, (node['address'], node['name'])))})"


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.0f} s"


def _pending(cluster: dict[str, Any]) -> list[str]:
    """Nodes that are to come, or to be cleared away."""
    scaler = cluster["autoscaler"] or {"instances": []}
    stages = {0: "launching", 1: "starting", 4: "ending"}
    return [
        f" 1 {row['node_type']} ({row['instance']}), {stages[row['stage']]} for {_seconds(row['age_ms'])}"
        for row in scaler["instances"]
        if row["stage"] in stages
    ]


def _failures(cluster: dict[str, Any]) -> list[str]:
    lost = [
        node for node in cluster["nodes"] if node["death_reason"] not in ("", "it was stopped") and not node["drain"]
    ]
    lines = [f" {_name(node)}: {node['death_reason']}" for node in lost[-_FAILURES:]]
    scaler = cluster["autoscaler"] or {"failures": [], "pauses": []}
    for row in scaler["failures"][-_FAILURES:]:
        lines.append(
            f" {row['node_type']} ({row['instance']}), {_seconds(row['age_ms'])} ago: {' '.join(row['why'].split())}"
        )
    for row in scaler["pauses"]:
        lines.append(f" {row['node_type']}: the next is tried in {_seconds(row['remaining_ms'])}")
    return lines


def _shape(resources: dict[str, float]) -> str:
    return "{" + ", ".join(f"'{name}': {amount}" for name, amount in sorted(resources.items())) + "}"


def _demands(described: dict[str, Any], cluster: dict[str, Any]) -> list[str]:
    """What tasks and actors of all nodes wait for, by what they ask for; under each why, for every name.

    Of what waits on a node that does not answer the control store knows how many of each shape.

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
    # Requests of nodes that have answered, which the control store counts as well.
    here: Counter[str] = Counter()
    for row in described["waiting"]:
        names = {row["name"]: 1} if row["actor_id"] else by_class.pop((row["worker_id"], row["class"]), {})
        shape = _shape(row["resources"])
        here[shape] += 1
        about = demands.setdefault((shape, row["infeasible"]), {})
        for name, count in names.items():
            earlier, why = about.get(name, (0, row["why"]))
            about[name] = earlier + count, why
    elsewhere = [(row, row["count"] - here[_shape(row["resources"])], _ELSEWHERE) for row in cluster["waiting"]]
    elsewhere += [(row, row["count"], _NO_NODE) for row in cluster["waiting_actors"]]
    for row, count, name in elsewhere:
        if count > 0:
            about = demands.setdefault((_shape(row["resources"]), row["infeasible"]), {})
            about[name] = count, row["why"]
    scaler = cluster["autoscaler"]
    # With an autoscaler what no node has is to be had all the same, unless no type has it either.
    never = {_shape(row["resources"]) for row in scaler["infeasible"]} if scaler else None
    lines = []
    for (shape, infeasible), about in demands.items():
        # Requests of which the owner had no task any more when it was asked are of nobody.
        if count := sum(count for count, _ in about.values()):
            is_never = infeasible if never is None else shape in never
            lines.append(f" {shape}: {count}+ pending tasks/actors{' (infeasible)' if is_never else ''}")
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
    print(text_of(arguments.address, arguments.timeout, verbose=arguments.verbose))
    return 0


def waiting_of(source: Source, cluster: dict[str, Any]) -> dict[str, list[str]]:
    """What is to come, what went wrong, and what waits for resources, and why.

    Args:
        source: The session.
        cluster: What `Observer.cluster` has said.

    Returns:
        Lines: of "nodes" that are to come, of "failures", and of "demands".
    """
    described = source.observer.describe_processes(waiting=True)
    groups = [group for group in source.observer.placement_groups() if group["state"] in _PENDING_GROUP]
    return {
        "nodes": _pending(cluster),
        "failures": _failures(cluster),
        "demands": _demands(described, cluster) + _group_demands(groups),
    }


def text_of(address: str | None, timeout: float = 30.0, *, verbose: bool = False) -> str:
    """Nodes, resources in use, and what waits for some.

    Args:
        address: Of the session; this process's, else the newest one, when None.
        timeout: Seconds to wait for an answer.
        verbose: Also each node's resources.

    Returns:
        Lines.

    Raises:
        ServerUnavailable: There is no session.
    """
    source = Source(address, timeout)
    cluster = source.answer(source.observer.cluster)
    nodes = [node for node in cluster["nodes"] if node["alive"]]
    rule = "---------------------------------------------------------------"
    lines = [f"======== Autoscaler status: {_output.now()} ========", "Node status", rule, "Active:"]
    lines += [f" 1 {_name(node)}" for node in nodes if not node["drain"]]
    if draining := [node for node in nodes if node["drain"]]:
        lines += ["Draining:", *(f" 1 {_name(node)}, {drain_text(node['drain'])}" for node in draining)]
    waiting = waiting_of(source, cluster)
    lines += ["Pending:", *(waiting["nodes"] or [" (no pending nodes)"])]
    lines += ["Recent failures:", *(waiting["failures"] or [" (no failures)"])]
    lines += ["", "Resources", rule, "Total Usage:", *_usage(nodes)]
    requested = [
        f" {_shape(row['resources'])}: {row['count']} from request_resources()" for row in cluster["requested"]
    ]
    lines += ["", "From request_resources:", *(requested or [" (none)"])]
    lines += ["Pending Demands:", *(waiting["demands"] or [" (no resource demands)"])]
    if verbose:
        for node in nodes:
            lines += ["", f"Node: {node['node_id']}", " Usage:", *(f"  {line.strip()}" for line in _usage([node]))]
    return "\n".join(lines)
