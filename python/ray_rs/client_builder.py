"""`ray.client`: a connection from outside of the cluster, put together step by step. Deprecated in Ray, but in use."""

from __future__ import annotations

from typing import Any

from ray_rs import _client, api
from ray_rs.api import ClientContext

__all__ = ["ClientBuilder", "ClientContext", "client"]


class ClientBuilder:
    """What `connect` will be told.

    Args:
        address: host:port of the cluster's head; None or "local": what `init` connects to without an address.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = None if address == "local" else address
        self._options: dict[str, Any] = {}

    def env(self, env: dict[str, Any]) -> ClientBuilder:
        """Sets the runtime environment.

        Args:
            env: As of `init`.
        """
        return self._with("runtime_env", env)

    def namespace(self, namespace: str) -> ClientBuilder:
        """Sets the namespace of named actors.

        Args:
            namespace: Its name.
        """
        return self._with("namespace", namespace)

    def _init_args(self, **kwargs: Any) -> ClientBuilder:
        self._options.update(kwargs)
        return self

    def _with(self, name: str, value: Any) -> ClientBuilder:
        self._options[name] = value
        return self

    def connect(self) -> api.RayContext:
        """Connects.

        Returns:
            As `init`.

        Raises:
            ConnectionError: As of `init`.
        """
        address = self.address
        if address is not None and "://" not in address:
            address = f"{_client.SCHEME}{address}"
        return api.init(address, **self._options)


def client(address: str | None = None) -> ClientBuilder:
    """Begins a connection to a cluster.

    Args:
        address: host:port of its head.

    Returns:
        What `connect` is called on in the end.

    Example:
        >>> ray.client("head:6379").namespace("mine").connect()
    """
    return ClientBuilder(address)
