"""What joblib asks of a backend, on a `ray_rs.util.multiprocessing.Pool`."""

from __future__ import annotations

from typing import Any

from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    PoolManagerMixin,
    SequentialBackend,
)

import ray_rs as ray
from ray_rs.util.multiprocessing import Pool

__all__ = ["RayBackend"]


class RayBackend(PoolManagerMixin, AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs joblib's batches in the processes of a pool.

    Args:
        *args: joblib's.
        ray_remote_args: Options of the processes, as for `@ray.remote`.
        **kwargs: joblib's.
    """

    supports_retrieve_callback = True
    supports_timeout = True
    _pool: Pool | None = None

    def __init__(self, *args: Any, ray_remote_args: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pool: Pool | None = None
        self._ray_remote_args = ray_remote_args

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many jobs run at once.

        Args:
            n_jobs: What the user said: -1 stands for all CPUs of the cluster, -2 for all but one.

        Returns:
            The number.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            if not ray.is_initialized():
                ray.init()
            n_jobs = max(int(ray.cluster_resources().get("CPU", 1)) + 1 + n_jobs, 1)
        return n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Prepares for one `Parallel`; the pool starts with its first batch.

        Args:
            n_jobs: As in `effective_n_jobs`.
            parallel: The `Parallel`.
            **settings: Without effect: they are for backends that share memory through files.

        Returns:
            How many jobs run at once.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._n_jobs = n_jobs
        return n_jobs

    def _get_pool(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(self._n_jobs, ray_remote_args=self._ray_remote_args)
        return self._pool

    def terminate(self) -> None:
        """Ends the pool."""
        self.reset_batch_stats()
        super().terminate()
