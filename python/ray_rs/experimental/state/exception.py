"""`ray.util.state.exception` under its older name."""

from ray_rs.util.state.exception import *  # noqa: F403
from ray_rs.util.state.exception import __all__ as __all__
