"""`ray.util.client`: a program from outside of the cluster; other names of Ray's for `ray_rs.init("ray://...")`."""

from __future__ import annotations

from typing import Any

__all__ = ["RayAPIStub", "num_connected_contexts", "ray"]


def num_connected_contexts() -> int:
    """How many connections to clusters this process has through `ray://`: one or none."""
    from ray_rs import _client

    return int(_client.is_connected())


class RayAPIStub:
    """`ray.util.client.ray`: the package, which works through a client as it does without, and its connection."""

    def is_connected(self) -> bool:
        """Whether this process is connected through `ray://`."""
        return num_connected_contexts() > 0

    def connect(
        self,
        conn_str: str,
        job_config: Any = None,
        secure: bool = False,
        metadata: list[tuple[str, str]] | None = None,
        connection_retries: int = 3,
        *,
        namespace: str | None = None,
        ignore_version: bool = False,
        _credentials: Any = None,
        ray_init_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """As `ray_rs.util.connect`."""
        from ray_rs.util.client_connect import connect

        return connect(
            conn_str,
            secure,
            metadata,
            connection_retries,
            job_config,
            namespace,
            ignore_version=ignore_version,
            _credentials=_credentials,
            ray_init_kwargs=ray_init_kwargs,
        )

    def disconnect(self) -> None:
        """As `ray_rs.util.disconnect`."""
        from ray_rs.util.client_connect import disconnect

        disconnect()

    def __getattr__(self, name: str) -> Any:
        import ray_rs

        return getattr(ray_rs, name)


ray = RayAPIStub()
