"""`ray.tests.client_test_utils`: classes that a test makes remote by itself."""

from __future__ import annotations

from typing import Any

from ray_rs._common.test_utils import SignalActor

__all__ = ["create_remote_signal_actor"]


def create_remote_signal_actor(ray: Any) -> Any:
    """The class `SignalActor`.

    Args:
        ray: The module `ray`, which in Ray may be that of a client.

    Returns:
        The actor class.
    """
    return SignalActor
