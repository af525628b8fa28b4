"""`ray.util.client.common`: the classes that Ray has twice, once for clients. Here a client has the usual ones."""

from ray_rs import ObjectRef as ClientObjectRef
from ray_rs.actor import ActorClass as ClientActorClass
from ray_rs.actor import ActorHandle as ClientActorHandle
from ray_rs.actor import ActorMethod as ClientRemoteMethod
from ray_rs.remote_function import RemoteFunction as ClientRemoteFunc

__all__ = ["ClientActorClass", "ClientActorHandle", "ClientObjectRef", "ClientRemoteFunc", "ClientRemoteMethod"]
