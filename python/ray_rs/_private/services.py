"""What libraries on Ray take from its private module of this name."""

from ray_rs.util import get_node_ip_address

__all__ = ["get_node_ip_address"]
