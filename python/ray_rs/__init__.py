"""Ray Core on an engine in Rust: `import ray_rs as ray`."""

from typing import TYPE_CHECKING

from ray_rs import exceptions
from ray_rs._core import (
    ActorClassID,
    ActorID,
    ClusterID,
    FunctionID,
    JobID,
    NodeID,
    ObjectRef,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
    cancel,
    empty,
    get,
    is_initialized,
    kill,
    put,
    wait,
    why,
)
from ray_rs.api import (
    available_resources,
    cluster_resources,
    get_actor,
    get_gpu_ids,
    init,
    nodes,
    remote,
    shutdown,
)

__version__ = "0.1.0"
__commit__ = ""

ObjectID = ObjectRef
SCRIPT_MODE, WORKER_MODE, SPILL_WORKER_MODE, RESTORE_WORKER_MODE = range(4)

if TYPE_CHECKING:
    from ray_rs import (
        actor,
        cloudpickle,
        cross_language,
        dag,
        experimental,
        job_config,
        options,
        remote_function,
        runtime_context,
        types,
        util,
    )
    from ray_rs._as_ray import install_as_ray
    from ray_rs._generator import DynamicObjectRefGenerator, ObjectRefGenerator
    from ray_rs._iterate import as_completed
    from ray_rs._iterate import map as map
    from ray_rs._logging_config import LoggingConfig, logger
    from ray_rs._report import performance_report
    from ray_rs._timeline import timeline
    from ray_rs.actor import method
    from ray_rs.client_builder import ClientBuilder, client
    from ray_rs.cross_language import Language, cpp_function, java_actor_class, java_function
    from ray_rs.runtime_context import get_runtime_context

# Imported when first asked for: submodules, and names in them that few programs need.
_SUBMODULES = (
    "_common",
    "_private",
    "_raylet",
    "actor",
    "autoscaler",
    "client_builder",
    "cloudpickle",
    "cross_language",
    "dag",
    "experimental",
    "job_config",
    "options",
    "remote_function",
    "runtime_context",
    "runtime_env",
    "types",
    "util",
)
_LAZY = {
    "ClientBuilder": "client_builder",
    "DynamicObjectRefGenerator": "_generator",
    "Language": "cross_language",
    "LoggingConfig": "_logging_config",
    "ObjectRefGenerator": "_generator",
    "as_completed": "_iterate",
    "client": "client_builder",
    "cpp_function": "cross_language",
    "get_runtime_context": "runtime_context",
    "install_as_ray": "_as_ray",
    "java_actor_class": "cross_language",
    "java_function": "cross_language",
    "logger": "_logging_config",
    "map": "_iterate",
    "method": "actor",
    "performance_report": "_report",
    "timeline": "_timeline",
}

# Without `map`: `from ray_rs import *` shall not take Python's own away.
__all__ = [
    "RESTORE_WORKER_MODE",
    "SCRIPT_MODE",
    "SPILL_WORKER_MODE",
    "WORKER_MODE",
    "ActorClassID",
    "ActorID",
    "ClientBuilder",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "Language",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__commit__",
    "__version__",
    "actor",
    "as_completed",
    "autoscaler",
    "available_resources",
    "cancel",
    "client",
    "cloudpickle",
    "cluster_resources",
    "cpp_function",
    "cross_language",
    "dag",
    "empty",
    "exceptions",
    "experimental",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "install_as_ray",
    "is_initialized",
    "java_actor_class",
    "java_function",
    "job_config",
    "kill",
    "logger",
    "method",
    "nodes",
    "options",
    "performance_report",
    "put",
    "remote",
    "remote_function",
    "runtime_context",
    "runtime_env",
    "shutdown",
    "timeline",
    "types",
    "util",
    "wait",
    "why",
]


def __getattr__(name: str) -> object:
    if name in _SUBMODULES or name in _LAZY:
        from importlib import import_module

        module = import_module(f"ray_rs.{_LAZY.get(name, name)}")
        value = getattr(module, name) if name in _LAZY else module
        globals()[name] = value
        return value
    from ray_rs._as_ray import no_attribute

    raise no_attribute(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
