"""`ray.util.state.api` under its older name."""

from ray_rs.util.state.api import *  # noqa: F403
from ray_rs.util.state.api import __all__ as __all__
