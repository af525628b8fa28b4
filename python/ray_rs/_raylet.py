"""`ray._raylet`: the names of Ray's extension module that Python code written for Ray imports."""

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
)
from ray_rs._generator import DynamicObjectRefGenerator, ObjectRefGenerator
from ray_rs.exceptions import ObjectRefStreamEndOfStreamError

# The label by which each node can be asked for.
RAY_NODE_ID_KEY = "ray.io/node-id"
StreamingObjectRefGenerator = ObjectRefGenerator
ObjectID = ObjectRef

__all__ = [
    "RAY_NODE_ID_KEY",
    "ActorClassID",
    "ActorID",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "ObjectRefStreamEndOfStreamError",
    "PlacementGroupID",
    "StreamingObjectRefGenerator",
    "TaskID",
    "UniqueID",
    "WorkerID",
]
