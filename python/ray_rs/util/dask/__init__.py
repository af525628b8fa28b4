"""Dask on the cluster: `ray_dask_get` runs a dask graph as tasks. Needs dask, from 2024.12."""

from __future__ import annotations

from typing import Any

from ray_rs.util.dask.callbacks import ProgressBarCallback, RayDaskCallback
from ray_rs.util.dask.scheduler import ray_dask_get, ray_dask_get_sync

__all__ = [
    "ProgressBarCallback",
    "RayDaskCallback",
    "dataframe_optimize",
    "disable_dask_on_ray",
    "enable_dask_on_ray",
    "ray_dask_get",
    "ray_dask_get_sync",
]


def enable_dask_on_ray(shuffle: str | None = "tasks", use_shuffle_optimization: bool = True) -> Any:
    """Makes dask compute on the cluster, from here on.

    Args:
        shuffle: How dataframes are shuffled; None leaves dask's choice.
        use_shuffle_optimization: Without effect: dask optimizes dataframes itself.

    Returns:
        A context manager that puts things back as they were when it is left.

    Example:
        >>> with enable_dask_on_ray():
        ...     dask.array.ones((1000, 1000), chunks=100).sum().compute()
        1000000.0
    """
    import dask

    settings: dict[str, Any] = {"scheduler": ray_dask_get}
    if shuffle is not None:
        settings["dataframe.shuffle.method"] = shuffle
    return dask.config.set(settings)


def disable_dask_on_ray() -> Any:
    """Makes dask compute as it does without Ray.

    Returns:
        A context manager that puts things back as they were when it is left.
    """
    import dask

    return dask.config.set(scheduler=None)


def dataframe_optimize(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """For programs that pass it to dask as `dataframe_optimize`: dask optimizes dataframes itself by now.

    Args:
        dsk: A graph.
        keys: The keys that are wanted of it.
        **kwargs: Without effect.

    Returns:
        The graph.
    """
    return dsk
