"""Clusters that grow and shrink: `ray_rs.autoscaler.sdk`. How they are configured is told in docs/cluster.md."""

from ray_rs.autoscaler import sdk

__all__ = ["sdk"]
