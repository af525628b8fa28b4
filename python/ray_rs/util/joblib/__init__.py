"""joblib on the cluster: `register_ray()`, then `joblib.parallel_backend("ray")`. Needs joblib."""

__all__ = ["register_ray"]


def register_ray() -> None:
    """Makes the cluster known to joblib, and to what is built on it (scikit-learn), as the backend "ray".

    Example:
        >>> register_ray()
        >>> with joblib.parallel_backend("ray"):
        ...     joblib.Parallel()(joblib.delayed(abs)(number) for number in (-1, 2))
        [1, 2]
    """
    from joblib import register_parallel_backend

    from ray_rs.util.joblib.ray_backend import RayBackend

    register_parallel_backend("ray", RayBackend)
