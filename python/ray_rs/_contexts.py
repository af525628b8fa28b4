"""What `init` returns."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ray_rs import _client, _core, _notebook

__all__ = ["ClientContext", "RayContext"]


def _warn_deprecated(old: str, new: str) -> None:
    import warnings

    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=3)


class RayContext(Mapping[str, Any]):
    """What `init` returns: where the session is. As a context manager it ends the session when left.

    Attributes:
        dashboard_url: Where the web service listens, as host:port; empty when there is none.
        python_version: Version of Python.
        ray_version: Version of ray_rs.
        ray_commit: Commit it was built from, when known.
        address_info: Addresses and directories of the session.
    """

    def __init__(self, address_info: dict[str, Any]) -> None:
        from ray_rs import __commit__, __version__

        self.dashboard_url = address_info["webui_url"]
        self.python_version = ".".join(map(str, sys.version_info[:3]))
        self.ray_version = __version__
        self.ray_commit = __commit__
        self.address_info = address_info

    def disconnect(self) -> None:
        """Ends the session, as `shutdown` does."""
        from ray_rs import api

        api.shutdown()

    def __enter__(self) -> RayContext:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.disconnect()

    # As a mapping it is what Ray 1 gave, a dictionary of addresses.
    def __getitem__(self, key: str) -> Any:
        _warn_deprecated(f"ctx[{key!r}]", f"ctx.address_info[{key!r}]")
        return self.address_info[key]

    def __len__(self) -> int:
        _warn_deprecated("len(ctx)", "len(ctx.address_info)")
        return len(self.address_info)

    def __iter__(self) -> Iterator[str]:
        _warn_deprecated("iter(ctx)", "iter(ctx.address_info)")
        return iter(self.address_info)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RayContext) and self.address_info == other.address_info

    __hash__ = None  # type: ignore[assignment]

    def _rows(self) -> dict[str, str]:
        names = ("dashboard_url", "python_version", "ray_version", "ray_commit")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"RayContext({', '.join(f'{name}={value!r}' for name, value in self._rows().items())})"

    def _repr_html_(self) -> str:
        rows = {"Python": self.python_version, "ray_rs": self.ray_version, "Session": self.address_info["session_dir"]}
        if _core.is_initialized():
            from ray_rs import api

            resources = api.cluster_resources()
            rows["CPUs"], rows["GPUs"] = (f"{resources.get(name, 0):g}" for name in ("CPU", "GPU"))
            rows["Object store"] = f"{resources.get('object_store_memory', 0) / 1e9:.1f} GB"
        return _notebook.html_table(rows)


class ClientContext(RayContext):
    """What `init("ray://...")` returns.

    Attributes:
        protocol_version: What both sides have in common.
    """

    def __init__(self, address_info: dict[str, Any]) -> None:
        super().__init__(address_info)
        self.protocol_version = _client.protocol_version()
        self._num_clients = _core.client_count()

    def _rows(self) -> dict[str, str]:
        return {**super()._rows(), "protocol_version": self.protocol_version}

    def __repr__(self) -> str:
        return super().__repr__().replace("RayContext", "ClientContext", 1)
