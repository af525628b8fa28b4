"""`status` and `health-check`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format
from ray_rs.scripts._state import add_common
from ray_rs.util.state._rows import Source, drain_text

__all__ = ["add", "data_of", "text_of", "waiting_of"]

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
    add_format(status)
    add_common(status)
    status.set_defaults(run=_status)
    health = commands.add_parser("health-check", help="exit with 0 if a session answers, else with 1")
    add_format(health)
    add_common(health)
    health.set_defaults(run=_health)


def _health(arguments: argparse.Namespace) -> int:
    source = Source(arguments.address, arguments.timeout)
    # Both daemons have a part in it.
    source.rows("nodes")
    source.rows("jobs")
    if arguments.format != "default":
        print(_output.structured({"healthy": True}, arguments.format))
    return 0


def _amount(name: str, used: float, total: float) -> str:
    if name in _IN_BYTES:
        return f"{used / 2**30:.2f}GiB/{total / 2**30:.2f}GiB {name}"
    return f"{used}/{total} {name}"


def _amounts(nodes: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How much of each resource is used, and how much there is."""
    total: Counter[str] = Counter()
    free: Counter[str] = Counter()
    for node in nodes:
        total.update(node["total"])
        free.update(node["available"])
    # Those of nodes and bundles are the engine's own.
    names = sorted(name for name in total if not name.startswith("node:") and "_group_" not in name)
    return {name: {"used": total[name] - free[name], "total": total[name]} for name in names}


def _usage(nodes: list[dict[str, Any]]) -> list[str]:
    return [f" {_amount(name, each['used'], each['total'])}" for name, each in _amounts(nodes).items()]


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


def _demands(described: dict[str, Any], cluster: dict[str, Any]) -> list[dict[str, Any]]:
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
    resources: dict[str, dict[str, float]] = {}
    # Requests of nodes that have answered, which the control store counts as well.
    here: Counter[str] = Counter()
    for row in described["waiting"]:
        names = {row["name"]: 1} if row["actor_id"] else by_class.pop((row["worker_id"], row["class"]), {})
        shape = _shape(row["resources"])
        resources[shape] = row["resources"]
        here[shape] += 1
        about = demands.setdefault((shape, row["infeasible"]), {})
        for name, count in names.items():
            earlier, why = about.get(name, (0, row["why"]))
            about[name] = earlier + count, why
    elsewhere = [(row, row["count"] - here[_shape(row["resources"])], _ELSEWHERE) for row in cluster["waiting"]]
    elsewhere += [(row, row["count"], _NO_NODE) for row in cluster["waiting_actors"]]
    for row, count, name in elsewhere:
        if count > 0:
            resources[_shape(row["resources"])] = row["resources"]
            about = demands.setdefault((_shape(row["resources"]), row["infeasible"]), {})
            about[name] = count, row["why"]
    scaler = cluster["autoscaler"]
    # With an autoscaler what no node has is to be had all the same, unless no type has it either.
    never = {_shape(row["resources"]) for row in scaler["infeasible"]} if scaler else None
    rows = []
    for (shape, infeasible), about in demands.items():
        # Requests of which the owner had no task any more when it was asked are of nobody.
        if count := sum(count for count, _ in about.values()):
            is_never = infeasible if never is None else shape in never
            waiting = [{"name": name, "count": number, "why": why} for name, (number, why) in about.items()]
            rows.append({"resources": resources[shape], "count": count, "infeasible": is_never, "waiting": waiting})
    return rows


def _demand_lines(demands: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in demands:
        infeasible = " (infeasible)" if row["infeasible"] else ""
        lines.append(f" {_shape(row['resources'])}: {row['count']}+ pending tasks/actors{infeasible}")
        lines += [f"  {each['name'] or '(no name)'}: {each['count']}, {each['why']}" for each in row["waiting"]]
    return lines


def _group_demands(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Placement groups that have no place, those that are alike together."""
    alike: dict[str, dict[str, Any]] = {}
    for group in groups:
        bundles = [bundle["resources"] for bundle in group["bundles"]]
        row = {"bundles": bundles, "strategy": _STRATEGIES[group["strategy"]], "why": group["detail"], "count": 0}
        alike.setdefault(str(row), row)["count"] += 1
    return list(alike.values())


def _group_lines(groups: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in groups:
        shapes = Counter(map(str, row["bundles"]))
        bundles = ", ".join(f"{shape} * {count}" for shape, count in shapes.items())
        lines.append(f" {bundles} ({row['strategy']}): {row['count']}+ pending placement groups, {row['why']}")
    return lines


def _status(arguments: argparse.Namespace) -> int:
    if arguments.format != "default":
        print(_output.structured(data_of(arguments.address, arguments.timeout), arguments.format))
        return 0
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
    demands, groups = _waiting(source, cluster)
    return {
        "nodes": _pending(cluster),
        "failures": _failures(cluster),
        "demands": _demand_lines(demands) + _group_lines(groups),
    }


def _waiting(source: Source, cluster: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tasks and actors that wait for resources, and placement groups that do."""
    described = source.observer.describe_processes(waiting=True)
    groups = [group for group in source.observer.placement_groups() if group["state"] in _PENDING_GROUP]
    return _demands(described, cluster), _group_demands(groups)


def data_of(address: str | None, timeout: float = 30.0) -> dict[str, Any]:
    """The same as `text_of` for programs; docs/command-line.md describes it.

    Args:
        address: As for `text_of`.
        timeout: As for `text_of`.

    Returns:
        Plain values.

    Raises:
        ServerUnavailable: As for `text_of`.
    """
    source = Source(address, timeout)
    cluster = source.answer(source.observer.cluster)
    nodes = [node for node in cluster["nodes"] if node["alive"]]
    demands, groups = source.answer(lambda: _waiting(source, cluster))
    return {
        "nodes": [
            {
                "node_id": node["node_id"],
                "address": node["address"],
                "name": node["name"],
                "state": "DRAINING" if node["drain"] else "ALIVE",
                "resources": _amounts([node]),
            }
            for node in nodes
        ],
        "pending_nodes": [line.strip() for line in _pending(cluster)],
        "recent_failures": [line.strip() for line in _failures(cluster)],
        "resources": _amounts(nodes),
        "requested": [{"resources": row["resources"], "count": row["count"]} for row in cluster["requested"]],
        "demands": demands,
        "placement_groups": groups,
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
