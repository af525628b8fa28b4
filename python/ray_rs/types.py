"""`ray.types.ObjectRef`, under which name annotations know it."""

from ray_rs._core import ObjectRef

__all__ = ["ObjectRef"]
