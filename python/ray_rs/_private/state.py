"""`ray._private.state`: what test files ask about nodes, actors and jobs, in dictionaries with Ray's keys."""

from __future__ import annotations

from typing import Any

from ray_rs import _core
from ray_rs.api import available_resources, cluster_resources, nodes

__all__ = [
    "actors",
    "available_resources",
    "available_resources_per_node",
    "cluster_resources",
    "jobs",
    "nodes",
    "total_resources_per_node",
]

_MOST = 10_000


def actors(actor_id: str | None = None) -> dict[str, Any]:
    """Describes actors, also dead ones.

    Args:
        actor_id: Of one, as hexadecimal digits; all when None.

    Returns:
        That actor's dictionary, empty if there is none; or such dictionaries by the actors' ids.
    """
    from ray_rs.util.state import get_actor, list_actors

    if actor_id is not None:
        found = get_actor(actor_id)
        return {} if found is None else _actor(found, _addresses())
    addresses = _addresses()
    return {row.actor_id: _actor(row, addresses) for row in list_actors(limit=_MOST, detail=True)}


def _addresses() -> dict[str, str]:
    return {node["NodeID"]: node["NodeManagerAddress"] for node in nodes()}


def _actor(row: Any, addresses: dict[str, str]) -> dict[str, Any]:
    node_id = row.node_id or ""
    return {
        "ActorID": row.actor_id,
        "ActorClassName": row.class_name,
        "IsDetached": bool(row.is_detached),
        "Name": row.name or "",
        "JobID": row.job_id,
        "Address": {"IPAddress": addresses.get(node_id, ""), "NodeID": node_id},
        "State": row.state,
        "NumRestarts": row.num_restarts or 0,
        "DeathCause": row.death_cause,
        "Pid": row.pid or 0,
    }


def jobs() -> list[dict[str, Any]]:
    """Describes the jobs of the cluster, also those that have ended.

    Returns:
        A dictionary for each: "JobID", "DriverPid", and "IsDead", whether it has ended.
    """
    from ray_rs.util.state import list_jobs

    return [
        {
            "JobID": row.job_id,
            "DriverPid": None if row.driver_info is None else row.driver_info.get("pid"),
            "IsDead": row.status not in ("PENDING", "RUNNING"),
        }
        for row in list_jobs(limit=_MOST, detail=True)
    ]


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """What nothing holds at the moment, of each living node; soon out of date.

    Returns:
        Amounts by name, by the nodes' ids as hexadecimal digits.
    """
    return _per_node("available")


def total_resources_per_node() -> dict[str, dict[str, float]]:
    """What each living node has.

    Returns:
        Amounts by name, by the nodes' ids as hexadecimal digits.
    """
    return _per_node("total")


def _per_node(which: str) -> dict[str, dict[str, float]]:
    return {node["node_id"]: dict(node[which]) for node in _core.cluster_view() if node["alive"]}
