"""The cluster's key-value store, for libraries: keys and values are bytes, a key may also be text."""

from __future__ import annotations

from ray_rs import _core

__all__ = [
    "_internal_kv_del",
    "_internal_kv_exists",
    "_internal_kv_get",
    "_internal_kv_initialized",
    "_internal_kv_list",
    "_internal_kv_put",
]


def _internal_kv_initialized() -> bool:
    """Whether there is a session, and so a store."""
    return _core.is_initialized()


def _internal_kv_get(key: str | bytes, *, namespace: str | bytes | None = None) -> bytes | None:
    """Reads a value.

    Args:
        key: Its key.
        namespace: Where the key lives.

    Returns:
        The value; None when there is none.
    """
    return _core.kv_get(_space(namespace), _bytes(key))


def _internal_kv_exists(key: str | bytes, *, namespace: str | bytes | None = None) -> bool:
    """Whether there is a value.

    Args:
        key: Its key.
        namespace: Where the key lives.

    Returns:
        Whether there is one.
    """
    return _internal_kv_get(key, namespace=namespace) is not None


def _internal_kv_put(
    key: str | bytes, value: str | bytes, overwrite: bool = True, *, namespace: str | bytes | None = None
) -> bool:
    """Writes a value.

    Args:
        key: Its key.
        value: The value.
        overwrite: Replace the one that is there.
        namespace: Where the key lives.

    Returns:
        Whether the key was there before.
    """
    return not _core.kv_put(_space(namespace), _bytes(key), _bytes(value), overwrite)


def _internal_kv_del(key: str | bytes, *, del_by_prefix: bool = False, namespace: str | bytes | None = None) -> int:
    """Removes a value.

    Args:
        key: Its key.
        del_by_prefix: Remove all whose keys begin so.
        namespace: Where the keys live.

    Returns:
        How many were removed.
    """
    space = _space(namespace)
    keys = _core.kv_keys(space, _bytes(key)) if del_by_prefix else [_bytes(key)]
    return sum(_core.kv_del(space, each) for each in keys)


def _internal_kv_list(prefix: str | bytes, *, namespace: str | bytes | None = None) -> list[bytes]:
    """Lists keys.

    Args:
        prefix: What they begin with.
        namespace: Where they live.

    Returns:
        The keys.
    """
    return _core.kv_keys(_space(namespace), _bytes(prefix))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _space(namespace: str | bytes | None) -> str:
    # The store's own namespaces (functions, for one) stay out of reach.
    name = namespace.decode() if isinstance(namespace, bytes) else namespace
    return f"usr:{name}" if name else "usr"
