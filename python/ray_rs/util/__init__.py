"""Helpers on top of tasks and actors."""

from ray_rs.util.actor_pool import ActorPool

__all__ = ["ActorPool", "get_node_ip_address"]


def get_node_ip_address() -> str:
    """The address of the node that this process runs on.

    Returns:
        The address; 127.0.0.1 outside a session.
    """
    from ray_rs import _core

    return _core.process_info()["node_ip"] if _core.is_initialized() else "127.0.0.1"
