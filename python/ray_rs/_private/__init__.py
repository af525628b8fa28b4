"""Names that Ray keeps private and that libraries and test files written for it import all the same.

Only what can be answered truly is here; `ray_rs` itself uses none of it.
"""

from __future__ import annotations

# Ray imports these itself, so libraries use them as attributes.
_SUBMODULES = (
    "client_mode_hook",
    "gcs_utils",
    "internal_api",
    "ray_constants",
    "services",
    "state",
    "test_utils",
    "worker",
)


def __getattr__(name: str) -> object:
    if name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module(f"{__name__}.{name}")
