"""Hooks into the run of a dask graph: `RayDaskCallback`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

__all__ = ["Callbacks", "ProgressBarCallback", "RayDaskCallback"]

_HOOKS = ("ray_presubmit", "ray_postsubmit", "ray_pretask", "ray_posttask", "ray_postsubmit_all", "ray_finish")


class RayDaskCallback:
    """Functions that are called as a graph runs. Derive from it and define methods `_ray_presubmit` and so on, or pass
    functions; as a context manager it is active inside.

    Args:
        **hooks: By name: `ray_presubmit(task, key, deps)` may give the result, so that no task is submitted;
            `ray_postsubmit(task, key, deps, object_ref)`; `ray_pretask(key, object_refs)` and
            `ray_posttask(key, result, pre_state)` run in the worker, the second with what the first returned;
            `ray_postsubmit_all(object_refs, dsk)`; `ray_finish(result)`.
    """

    active: ClassVar[list[RayDaskCallback]] = []

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        for name, hook in hooks.items():
            if name not in _HOOKS:
                raise TypeError(f"RayDaskCallback has no hook {name!r}; there are {', '.join(_HOOKS)}")
            if hook is not None:
                setattr(self, f"_{name}", hook)

    def register(self) -> None:
        """Makes it active."""
        RayDaskCallback.active.append(self)

    def unregister(self) -> None:
        """Makes it inactive."""
        RayDaskCallback.active.remove(self)

    def __enter__(self) -> RayDaskCallback:
        self.register()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.unregister()


class ProgressBarCallback(RayDaskCallback):
    """Shows a progress bar: how many tasks of the graph are done."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def _ray_postsubmit_all(self, object_refs: list[Any], dsk: Any) -> None:
        from ray_rs.experimental.tqdm_ray import tqdm

        bar = self._bar = tqdm(desc="dask", total=len(object_refs), unit="task")
        for ref in object_refs:
            ref._on_completed(lambda outcome: bar.update())

    def _ray_finish(self, result: Any) -> None:
        self._bar.n = self._bar.total  # the last are still being reported
        self._bar.close()


class Callbacks:
    """Those of one run."""

    def __init__(self, callbacks: list[RayDaskCallback]) -> None:
        self._callbacks = callbacks

    def _each(self, name: str) -> list[Callable[..., Any]]:
        found = (getattr(callback, f"_{name}", None) for callback in self._callbacks)
        return [hook for hook in found if hook is not None]

    def before_submit(self, task: Any, key: Any, dependencies: list[Any]) -> Any:
        """What stands for the task's result, if one of them says so."""
        for hook in self._each("ray_presubmit"):
            given = hook(task, key, dependencies)
            if given is not None:
                return given
        return None

    def after_submit(self, task: Any, key: Any, dependencies: list[Any], ref: Any) -> None:
        """A task was submitted."""
        for hook in self._each("ray_postsubmit"):
            hook(task, key, dependencies, ref)

    def in_worker(self) -> list[tuple[Any, Any]]:
        """What is to run before and after each task, where it runs."""
        pairs = [
            (getattr(each, "_ray_pretask", None), getattr(each, "_ray_posttask", None)) for each in self._callbacks
        ]
        return [pair for pair in pairs if pair != (None, None)]

    def after_all(self, refs: list[Any], graph: Any) -> None:
        """Everything was submitted."""
        for hook in self._each("ray_postsubmit_all"):
            hook(refs, graph)

    def at_end(self, result: Any) -> None:
        """The results are there."""
        for hook in self._each("ray_finish"):
            hook(result)
