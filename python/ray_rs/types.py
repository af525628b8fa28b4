"""`ray.types.ObjectRef`, under which name annotations know it."""

from ray_rs import ObjectRef

__all__ = ["ObjectRef"]
