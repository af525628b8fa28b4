"""`ray.util.connect` and `ray.util.disconnect`: older names for `init("ray://...")` and `shutdown`."""

from __future__ import annotations

from typing import Any

__all__ = ["connect", "disconnect"]


def connect(
    conn_str: str,
    secure: bool = False,
    metadata: list[tuple[str, str]] | None = None,
    connection_retries: int = 3,
    job_config: Any = None,
    namespace: str | None = None,
    *,
    ignore_version: bool = False,
    _credentials: Any = None,
    ray_init_kwargs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Connects this process to a cluster from outside.

    Args:
        conn_str: host:port of the cluster's head.
        secure: Without effect: the token says whether connections are encrypted.
        metadata: Without effect.
        connection_retries: Without effect: what cannot be reached within seconds is an error.
        job_config: A `ray_rs.job_config.JobConfig`.
        namespace: Where named actors of this job live.
        ignore_version: Without effect: versions must be the same.
        _credentials: Without effect.
        ray_init_kwargs: Further arguments of `init`.

    Returns:
        "num_clients", "python_version", "ray_version", "ray_commit", "protocol_version".

    Raises:
        RuntimeError: This process is connected already.
        ConnectionError: As of `init`.
    """
    from ray_rs import _client, api

    if _client.is_connected():
        raise RuntimeError(
            'Ray Client is already connected. Maybe you called ray.init("ray://<address>") twice by accident?'
        )
    context = api.init(
        f"{_client.SCHEME}{conn_str}", job_config=job_config, namespace=namespace, **(ray_init_kwargs or {})
    )
    assert isinstance(context, api.ClientContext)
    names = ("python_version", "ray_version", "ray_commit", "protocol_version")
    return {"num_clients": context._num_clients, **{name: getattr(context, name) for name in names}}


def disconnect() -> None:
    """Ends the connection of `connect`; does nothing when there is none."""
    from ray_rs import _client, api

    if _client.is_connected():
        api.shutdown()
