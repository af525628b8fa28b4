"""`ray._private.ray_constants`: the constants of it that hold for this engine."""

from ray_rs._processes import MIN_OBJECT_STORE_BYTES

__all__ = [
    "DEFAULT_OBJECT_STORE_MEMORY_PROPORTION",
    "DEFAULT_PORT",
    "OBJECT_STORE_MINIMUM_MEMORY_BYTES",
    "RAY_OVERRIDE_DASHBOARD_URL",
    "REDIS_MINIMUM_MEMORY_BYTES",
    "WORKER_DIED_PUSH_ERROR",
    "env_bool",
    "env_float",
    "env_integer",
]

OBJECT_STORE_MINIMUM_MEMORY_BYTES = MIN_OBJECT_STORE_BYTES
DEFAULT_OBJECT_STORE_MEMORY_PROPORTION = 0.3
REDIS_MINIMUM_MEMORY_BYTES = 10**7
DEFAULT_PORT = 6379

# The variable that says where to send people who look for the web service (`RuntimeContext.get_dashboard_url`).
RAY_OVERRIDE_DASHBOARD_URL = "RAY_OVERRIDE_DASHBOARD_URL"

# Kinds of errors that the driver is told of (`_private.test_utils.get_error_message`).
WORKER_DIED_PUSH_ERROR = "worker_died"


def env_integer(key: str, default: int) -> int:
    """An environment variable as a whole number; the default when it is none."""
    import os

    value = os.environ.get(key, "")
    return int(value) if value.isdigit() else default


def env_float(key: str, default: float) -> float:
    """An environment variable as a number; the default when it is none."""
    import os

    try:
        return float(os.environ[key])
    except (KeyError, ValueError):
        return default


def env_bool(key: str, default: bool) -> bool:
    """Whether an environment variable is "1" or "true"; the default when it is not set."""
    import os

    return os.environ[key].lower() in ("1", "true") if key in os.environ else default
