"""`ray.util.rpdb`: Ray's older name of `ray.util.pdb`."""

from ray_rs.util.pdb import post_mortem, set_trace

__all__ = ["post_mortem", "set_trace"]
