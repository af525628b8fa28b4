"""Helpers on top of tasks and actors."""

from typing import TYPE_CHECKING, Any

# At once: the function has the name of its module, which is bound in its place when that is imported later.
from ray_rs.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from ray_rs.util import accelerators as accelerators
    from ray_rs.util import actor_pool as actor_pool
    from ray_rs.util import annotations as annotations
    from ray_rs.util import check_serialize as check_serialize
    from ray_rs.util import client as client
    from ray_rs.util import client_connect as client_connect
    from ray_rs.util import dask as dask
    from ray_rs.util import debug as debug
    from ray_rs.util import executor as executor
    from ray_rs.util import helpers as helpers
    from ray_rs.util import joblib as joblib
    from ray_rs.util import multiprocessing as multiprocessing
    from ray_rs.util import pdb as pdb
    from ray_rs.util import queue as queue
    from ray_rs.util import rpdb as rpdb
    from ray_rs.util import scheduling_strategies as scheduling_strategies
    from ray_rs.util import serialization as serialization
    from ray_rs.util import tracing as tracing
    from ray_rs.util.actor_pool import ActorPool
    from ray_rs.util.check_serialize import inspect_serializability
    from ray_rs.util.client_connect import connect, disconnect
    from ray_rs.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
    from ray_rs.util.helpers import as_completed, map_unordered
    from ray_rs.util.serialization import deregister_serializer, register_serializer

# Imported when first asked for: submodules, and what lives in them. (No `from __future__ import annotations` here: it
# would stand in the way of the submodule of that name.)
_SUBMODULES = (
    "accelerators",
    "actor_pool",
    "annotations",
    "check_serialize",
    "client",
    "client_connect",
    "dask",
    "debug",
    "executor",
    "helpers",
    "joblib",
    "multiprocessing",
    "pdb",
    "queue",
    "rpdb",
    "scheduling_strategies",
    "serialization",
    "tracing",
)
_LAZY = {
    "ActorPool": "actor_pool",
    "as_completed": "helpers",
    "connect": "client_connect",
    "deregister_serializer": "serialization",
    "disable_log_once_globally": "debug",
    "disconnect": "client_connect",
    "enable_periodic_logging": "debug",
    "inspect_serializability": "check_serialize",
    "log_once": "debug",
    "map_unordered": "helpers",
    "register_serializer": "serialization",
}

__all__ = [
    "ActorPool",
    "accelerators",
    "as_completed",
    "connect",
    "deregister_serializer",
    "disable_log_once_globally",
    "disconnect",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]


def get_node_ip_address() -> str:
    """The address of the node that this process runs on.

    Returns:
        The address; 127.0.0.1 outside a session.
    """
    from ray_rs import _core

    return _core.process_info()["node_ip"] if _core.is_initialized() else "127.0.0.1"


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of the named actors that are alive.

    Args:
        all_namespaces: Those of all namespaces, not only of this job's.

    Returns:
        The names; with `all_namespaces` a dictionary for each, with keys "name" and "namespace".
    """
    from ray_rs import _core, api

    if not _core.is_initialized():
        api._auto_init()
    named = sorted(_core.named_actors())
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in named]
    own = _core.process_info()["namespace"]
    return [name for namespace, name in named if namespace == own]


def __getattr__(name: str) -> object:
    if name in _SUBMODULES or name in _LAZY:
        from importlib import import_module

        module = import_module(f"{__name__}.{_LAZY.get(name, name)}")
        value = getattr(module, name) if name in _LAZY else module
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
