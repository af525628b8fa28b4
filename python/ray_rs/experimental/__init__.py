"""Parts of Ray's interface that Ray itself calls experimental."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_rs._locations import get_local_object_locations, get_object_locations
    from ray_rs.experimental import internal_kv, state, tqdm_ray

_SUBMODULES = ("internal_kv", "state", "tqdm_ray")

__all__ = ["get_local_object_locations", "get_object_locations", "internal_kv", "state", "tqdm_ray"]


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        return getattr(import_module("ray_rs._locations"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
