"""`ray.util.state.common` under its older name."""

from ray_rs.util.state.common import *  # noqa: F403
from ray_rs.util.state.common import __all__ as __all__
