"""The state API: what is in a session, what it does, and its logs."""

from ray_rs.util.state.api import (
    get_actor,
    get_job,
    get_node,
    get_placement_group,
    get_task,
    get_worker,
    list_actors,
    list_cluster_events,
    list_jobs,
    list_nodes,
    list_placement_groups,
    list_tasks,
    list_workers,
    summarize_actors,
    summarize_tasks,
)
from ray_rs.util.state.logs import get_log, list_logs

__all__ = [
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_logs",
    "list_nodes",
    "list_placement_groups",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_tasks",
]
