"""`ray.util.client.ray_client_helpers`: for tests that Ray runs with and without Ray Client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["connect_to_client_or_not"]


@contextmanager
def connect_to_client_or_not(connect_to_client: bool) -> Iterator[None]:
    """A block that a test runs through a client, or not.

    Args:
        connect_to_client: Through a client: the test is skipped, since a process has one session.
    """
    if connect_to_client:
        import pytest

        pytest.skip("A process is a client of a cluster or part of one, and this one is part of one.")
    yield
