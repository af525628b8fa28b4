"""Runs dask graphs: each node of a graph is a task, and gets what it depends on as references."""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from dask._task_spec import Alias, DataNode, convert_legacy_graph

import ray_rs as ray
from ray_rs import _serialization
from ray_rs.util.dask.callbacks import Callbacks, RayDaskCallback

__all__ = ["ray_dask_get", "ray_dask_get_sync"]


def ray_dask_get(
    dsk: Any,
    keys: Any,
    *,
    ray_callbacks: Any = None,
    ray_persist: bool = False,
    ray_remote_args: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Computes keys of a dask graph; give it to dask as `scheduler`.

    Args:
        dsk: The graph, or an expression that has one.
        keys: A key, or nested lists of keys.
        ray_callbacks: `RayDaskCallback`s, beside those that are active.
        ray_persist: Give references instead of values.
        ray_remote_args: Options of the tasks; those of a `dask.annotate(ray_remote_args=...)` come before them.
        **kwargs: dask's, without effect.

    Returns:
        The values in the place of the keys.

    Example:
        >>> dask.array.ones((1000, 1000), chunks=100).sum().compute(scheduler=ray_dask_get)
        1000000.0
    """
    annotations = dsk.__dask_annotations__() if hasattr(dsk, "__dask_annotations__") else {}
    graph = convert_legacy_graph(dsk if isinstance(dsk, Mapping) else dsk.__dask_graph__())
    callbacks = Callbacks([*RayDaskCallback.active, *(ray_callbacks or ())])
    run = _GraphRun(graph, annotations.get("ray_remote_args", {}), ray_remote_args or {}, callbacks)
    wanted = list(_flat(keys))
    refs = {key: run.submit(key) for key in wanted}
    callbacks.after_all(list(run.refs.values()), graph)
    if ray_persist:
        values: dict[Any, Any] = refs
    else:
        values = dict(zip(refs, ray.get([_as_ref(ref) for ref in refs.values()]), strict=True))
    result = _nested(keys, values)
    callbacks.at_end(result)
    return result


def ray_dask_get_sync(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Like `ray_dask_get`, which submits tasks from the calling thread too.

    Args:
        dsk: The graph, or an expression that has one.
        keys: A key, or nested lists of keys.
        **kwargs: As for `ray_dask_get`.

    Returns:
        The values in the place of the keys.
    """
    return ray_dask_get(dsk, keys, **kwargs)


def _persist(collections: Any, **kwargs: Any) -> Any:
    """`dask.persist` asks a scheduler for this: the data stays in the cluster, and the collections refer to it."""
    import dask

    schedule = functools.partial(ray_dask_get, ray_persist=True)
    return dask.persist(*collections, scheduler=schedule, traverse=False, **kwargs)


ray_dask_get.persist = _persist  # type: ignore[attr-defined]


class _GraphRun:
    """One graph, and what of it was submitted."""

    def __init__(
        self,
        graph: Mapping[Any, Any],
        options: Mapping[Any, dict[str, Any]],
        default_options: dict[str, Any],
        callbacks: Callbacks,
    ) -> None:
        self.refs: dict[Any, Any] = {}
        self._graph = graph
        self._options = options
        self._default_options = default_options
        self._callbacks = callbacks
        self._task = ray.remote(_run_node)

    def submit(self, key: Any) -> Any:
        """Submits a node and all it depends on; returns its reference."""
        path = [key]
        while path:
            node = self._graph[path[-1]]
            missing = [each for each in node.dependencies if each not in self.refs]
            if missing:
                path += missing
                continue
            if path[-1] not in self.refs:
                self.refs[path[-1]] = self._submit_node(path[-1], node)
            path.pop()
        return self.refs[key]

    def _submit_node(self, key: Any, node: Any) -> Any:
        if isinstance(node, Alias):
            return self.refs[node.target]
        if isinstance(node, DataNode):
            return _as_ref(node.value)
        names = list(node.dependencies)
        refs = [_as_ref(self.refs[name]) for name in names]
        given = self._callbacks.before_submit(node, key, names)
        if given is not None:
            return _as_ref(given)
        options = {"name": f"dask:{key}", **self._default_options, **self._options.get(key, {})}
        packed, inner_refs = _pack(node)
        hooks = self._callbacks.in_worker()
        ref = self._task.options(**options).remote(packed, len(inner_refs), names, hooks, key, *inner_refs, *refs)
        self._callbacks.after_submit(node, key, names, ref)
        return ref


def _run_node(
    packed: bytes, inner_count: int, names: list[Any], hooks: list[Any], key: Any, *inner_and_outer_values: Any
) -> Any:
    """In a worker."""
    inner, values = inner_and_outer_values[:inner_count], inner_and_outer_values[inner_count:]
    states = [before(key, values) if before is not None else None for before, _ in hooks]
    result = _Unpacker(packed, inner).load()(dict(zip(names, values, strict=True)))
    for (_, after), state in zip(hooks, states, strict=True):
        if after is not None:
            after(key, result, state)
    return result


def _pack(node: Any) -> tuple[bytes, list[Any]]:
    """A node as bytes, and the references in it: what a collection was persisted to may be anywhere inside."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(node)
    return file.getvalue(), packer.refs


class _Packer(_serialization._Pickler):
    """Leaves references out."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, None)
        self.refs: list[Any] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, ray.ObjectRef):
            return None
        self.refs.append(obj)
        return len(self.refs) - 1


class _Unpacker(pickle.Unpickler):
    """Puts values where references were."""

    def __init__(self, packed: bytes, values: tuple[Any, ...]) -> None:
        super().__init__(io.BytesIO(packed))
        self._values = values

    def persistent_load(self, pid: Any) -> Any:
        return self._values[pid]


def _as_ref(value: Any) -> Any:
    return value if isinstance(value, ray.ObjectRef) else ray.put(value)


def _flat(keys: Any) -> Iterator[Any]:
    if isinstance(keys, list):
        for each in keys:
            yield from _flat(each)
    else:
        yield keys


def _nested(keys: Any, values: Mapping[Any, Any]) -> Any:
    return [_nested(each, values) for each in keys] if isinstance(keys, list) else values[keys]
