"""`ray.util.collective`: what the processes of a group do together with their arrays, as in MPI."""

from ray_rs.util.collective import collective
from ray_rs.util.collective.collective import *  # noqa: F403

__all__: list[str] = []
__all__ += collective.__all__
