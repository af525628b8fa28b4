"""What a cluster holds when nobody wants anything any more, and what is left when it has ended: nothing."""

import time
from collections.abc import Callable
from typing import Any

import traces
from ray_rs import _core
from ray_rs.cluster_utils import Cluster


def in_use(cluster: Cluster, stores: bool = True) -> dict[str, Any]:
    """All that is not free: blocks of the stores, unfinished tasks, references, actors, jobs but one, resources."""
    head = _core.Observer(cluster.head_node.session_dir)
    said = head.describe_processes(tasks=True, objects=True, stored=True, waiting=True)
    held: dict[str, Any] = {
        "silent processes": said["silent"],
        "silent nodes": said["silent_nodes"],
        "requests that wait": said["waiting"],
        # Copies of values of other nodes are a cache: they stay until room is short.
        "blocks of the stores": [
            block for store in said["stores"] for block in store["objects"] if block["place"] != "copy"
        ],
        "unfinished tasks": [task for process in said["processes"] for task in process["tasks"]],
        "references": [known for process in said["processes"] for known in process["objects"]],
        "actors": [actor for actor in head.actors() if actor["state"] != 4],
        "jobs of others": [job for job in head.jobs() if not job["finished"]][1:],
        "processes of actors": [process["actor"] for process in said["processes"] if process["actor"]],
    }
    nodes = [node for node in head.nodes() if node["alive"]]
    held["leases"] = [
        f"{node['node_id'][:8]} {name}: {node['available'].get(name, 0)} of {amount}"
        for node in nodes
        for name, amount in node["total"].items()
        if node["available"].get(name, 0) != amount
    ]
    if len(nodes) != len(cluster.list_all_nodes()):
        held["nodes"] = f"{len(nodes)} instead of {len(cluster.list_all_nodes())}"
    for node in cluster.list_all_nodes():
        stats = _core.Observer(node.session_dir).store_stats()
        held[f"spilled at {node.node_id[:8]}"] = stats["spilled_objects"] or stats["spilled_bytes"]
    if not stores:
        held = {what: found for what, found in held.items() if "stores" not in what and "spilled" not in what}
    return {what: found for what, found in held.items() if found}


def left_behind() -> dict[str, Any]:
    """Processes, memory and files that outlive the cluster."""
    left = {
        "processes": traces.processes(),
        "shared memory": traces.shared_memory(),
        "session files": traces.session_files(),
    }
    return {what: found for what, found in left.items() if found}


def becomes_empty(look: Callable[[], dict[str, Any]], patience: float) -> dict[str, Any]:
    """What is still there at the end of the patience; empty as soon as nothing is."""
    deadline = time.monotonic() + patience
    while True:
        try:
            found = look()
        except (ConnectionError, TimeoutError) as error:
            found = {"no answer": str(error)}
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
