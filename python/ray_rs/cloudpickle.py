"""The cloudpickle that values, functions and classes are pickled with, under Ray's name for it."""

from typing import Any

import cloudpickle as _cloudpickle
from cloudpickle import CloudPickler, dump, dumps, load, loads, register_pickle_by_value, unregister_pickle_by_value

__all__ = [
    "CloudPickler",
    "dump",
    "dumps",
    "load",
    "loads",
    "register_pickle_by_value",
    "unregister_pickle_by_value",
]


def __getattr__(name: str) -> Any:
    return getattr(_cloudpickle, name)
