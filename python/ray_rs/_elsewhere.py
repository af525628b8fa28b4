"""Looking at what lies on another node: in a task there that asks for no resources."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ray_rs import _core

if TYPE_CHECKING:
    from ray_rs.util.state._rows import Source

__all__ = ["NodeError", "as_driver", "own_directory", "run_on"]


class NodeError(RuntimeError):
    """Another node has no answer.

    Attributes:
        cause: What was raised there; None: the node was not reached.
    """

    def __init__(self, text: str, cause: BaseException | None = None) -> None:
        super().__init__(text)
        self.cause = cause


def run_on(node: str, look: Callable[..., Any], *arguments: Any, timeout: float = 30.0) -> Any:
    """Looks at something where it is. This process is a driver, or a worker.

    Args:
        node: Id of the node, in hex; this process's own: it is called here.
        look: A function of a module that is there as well.
        *arguments: Its arguments.
        timeout: Seconds to wait for another node's answer.

    Returns:
        What it returns.

    Raises:
        NodeError: It raised on the other node, or that did not answer.
        Exception: What it raises here.
    """
    import ray_rs
    from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if node == _core.process_info()["node_id"].hex():
        return look(*arguments)
    there = ray_rs.remote(num_cpus=0, max_retries=0, enable_task_events=False)(look)
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        return ray_rs.get(there.options(scheduling_strategy=place).remote(*arguments), timeout=timeout)
    except ray_rs.exceptions.RayTaskError as error:
        raise NodeError(f"Node {node} does not say: {error.cause}", error.cause) from None
    except (ray_rs.exceptions.RayError, TimeoutError) as error:
        raise NodeError(f"Node {node} does not answer: {error}") from None


def own_directory() -> str:
    """The session's directory on this process's node.

    Returns:
        The directory.
    """
    return str(_core.process_info()["session_dir"])


@contextlib.contextmanager
def as_driver(source: Source) -> Iterator[None]:
    """Makes this process a driver of a session for a while, if it is part of none.

    Args:
        source: The session.

    Yields:
        Nothing: `run_on` can be called.
    """
    if _core.is_initialized():
        yield
        return
    import ray_rs

    address = json.loads(_core.discover(source.directory) or "{}").get("gcs_address") or "auto"
    ray_rs.init(address=address, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray_rs.shutdown()
