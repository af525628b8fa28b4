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

StreamingObjectRefGenerator = ObjectRefGenerator
ObjectID = ObjectRef

__all__ = [
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
    "PlacementGroupID",
    "StreamingObjectRefGenerator",
    "TaskID",
    "UniqueID",
    "WorkerID",
]
