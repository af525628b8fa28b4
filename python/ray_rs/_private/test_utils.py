"""Helpers that test files written for Ray import from `ray._private.test_utils`."""

from __future__ import annotations

import fnmatch
import math
import os
import queue
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray_rs as ray
from ray_rs import _logs, _processes
from ray_rs._common.test_utils import (
    Semaphore,
    SignalActor,
    async_wait_for_condition,
    is_named_tuple,
    run_string_as_driver,
    wait_for_condition,
)
from ray_rs._private import ray_constants
from ray_rs._private.worker import global_worker

__all__ = [
    "EXE_SUFFIX",
    "ErrorMessage",
    "RayTestTimeoutException",
    "Semaphore",
    "SignalActor",
    "Subscriber",
    "async_wait_for_condition",
    "async_wait_for_condition_async_predicate",
    "check_call_ray",
    "check_call_subprocess",
    "client_test_enabled",
    "convert_actor_state",
    "dicts_equal",
    "environment",
    "find_free_port",
    "generate_system_config_map",
    "get_error_message",
    "get_log_batch",
    "get_log_data",
    "get_log_message",
    "get_non_head_nodes",
    "get_other_nodes",
    "init_error_pubsub",
    "init_log_pubsub",
    "is_named_tuple",
    "is_placement_group_removed",
    "kill_actor_and_wait_for_failure",
    "object_memory_usage",
    "own_command",
    "placement_group_assert_no_leak",
    "put_object",
    "recursive_fnmatch",
    "run_string_as_driver",
    "run_string_as_driver_nonblocking",
    "run_string_as_driver_stdout_stderr",
    "same_elements",
    "skip_flaky_core_test_premerge",
    "wait_for_children_of_pid",
    "wait_for_children_of_pid_to_exit",
    "wait_for_condition",
    "wait_for_num_actors",
    "wait_for_num_nodes",
    "wait_for_pid_to_exit",
    "wait_until_server_available",
    "wait_until_succeeded_without_exception",
]

EXE_SUFFIX = ""
_POLL_S = 0.1


class RayTestTimeoutException(Exception):
    """What a helper waits for did not happen."""


def client_test_enabled() -> bool:
    """Whether the tests are to run through Ray Client, which is not there: no."""
    return False


def skip_flaky_core_test_premerge(reason: str) -> Callable[[Any], Any]:
    """A decorator that leaves a test as it is. In Ray it skips tests that often fail in its own checks.

    Args:
        reason: Of no effect.
    """
    return lambda test: test


# ---------------------------------------------------------------------------------------------------------- processes


def wait_for_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Waits for the end of a process.

    Args:
        pid: Its number.
        timeout: Seconds.

    Raises:
        RayTestTimeoutException: It still runs.
    """
    _wait(lambda: not _processes.is_running(pid), timeout, f"process {pid} to exit")


def wait_for_children_of_pid(pid: int, num_children: int = 1, timeout: float = 20) -> None:
    """Waits until a process has children.

    Args:
        pid: Its number.
        num_children: How many at least.
        timeout: Seconds.

    Raises:
        RayTestTimeoutException: It has fewer.
    """
    _wait(lambda: len(_children(pid)) >= num_children, timeout, f"process {pid} children to start")


def wait_for_children_of_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Waits for the end of those processes that are children of another one now.

    Args:
        pid: The other one's number.
        timeout: Seconds.

    Raises:
        RayTestTimeoutException: Some still run.
    """
    children = _children(pid)
    _wait(lambda: not any(map(_processes.is_running, children)), timeout, "process children to exit")


def _children(pid: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(name))
    return found


def _wait(condition: Callable[[], bool], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise RayTestTimeoutException(f"Timed out while waiting for {what}.")
        time.sleep(_POLL_S)


def own_command(arguments: Iterable[str]) -> list[str]:
    """A command line with `ray` in front, as that of ray_rs.

    Args:
        arguments: The words, the first of which may be `ray`.
    """
    first, *rest = arguments
    return [sys.executable, "-m", "ray_rs.scripts", *rest] if first == "ray" else [first, *rest]


def environment(given: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment with further variables.

    Args:
        given: Those; None: none.
    """
    return {**os.environ, **(given or {})}


def check_call_subprocess(argv: list[str], capture_stdout: bool = False, capture_stderr: bool = False) -> bytes:
    """Runs a command; `ray` is ray_rs.

    Args:
        argv: Its words.
        capture_stdout: Return what it prints.
        capture_stderr: Return what it prints as errors, too.

    Raises:
        subprocess.CalledProcessError: It fails.
    """
    both = capture_stdout and capture_stderr
    done = subprocess.run(
        own_command(argv),
        stdout=subprocess.PIPE if capture_stdout else None,
        stderr=subprocess.STDOUT if both else subprocess.PIPE if capture_stderr else None,
        check=True,
    )
    return (done.stdout or b"") + (done.stderr or b"")


def check_call_ray(args: list[str], capture_stdout: bool = False, capture_stderr: bool = False) -> None:
    """Runs the command line.

    Args:
        args: What follows `ray`.
        capture_stdout: Don't show what it prints.
        capture_stderr: Don't show what it prints as errors.

    Raises:
        subprocess.CalledProcessError: It fails.
    """
    check_call_subprocess(["ray", *args], capture_stdout, capture_stderr)


def run_string_as_driver_stdout_stderr(
    driver_script: str, env: dict[str, str] | None = None, encode: str = "utf-8"
) -> tuple[str, str]:
    """Runs a program in a process of its own.

    Args:
        driver_script: Its source.
        env: Its environment; this process's when None.
        encode: How its output is encoded.

    Returns:
        What it printed on both streams.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    driver = run_string_as_driver_nonblocking(driver_script, env)
    out, err = driver.communicate()
    if driver.returncode:
        print(out.decode(encode), err.decode(encode), file=sys.stderr)
        raise subprocess.CalledProcessError(driver.returncode, driver.args, out, err)
    return out.decode(encode), err.decode(encode)


def run_string_as_driver_nonblocking(driver_script: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a program in a process of its own, where `import ray` gives what it gives here.

    Args:
        driver_script: Its source.
        env: Its environment; this process's when None.

    Returns:
        The process; its output is to be read from pipes.
    """
    start = "import sys, ray_rs; ray_rs.install_as_ray(); script = sys.stdin.read(); sys.stdin.close(); exec(script)"
    driver = subprocess.Popen(
        [sys.executable, "-c", start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    assert driver.stdin is not None
    driver.stdin.write(driver_script.encode())
    driver.stdin.close()
    driver.stdin = None  # `communicate` would flush it
    return driver


# --------------------------------------------------------------------------------------------------------- conditions


async def async_wait_for_condition_async_predicate(
    async_condition_predictor: Callable[..., Awaitable[bool]],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    **kwargs: Any,
) -> None:
    """The same as `async_wait_for_condition`.

    Args:
        async_condition_predictor: A coroutine function: whether it is so.
        timeout: Seconds after which to give up.
        retry_interval_ms: Milliseconds between two questions.
        **kwargs: For the question.

    Raises:
        RuntimeError: It was not so in time.
    """
    await async_wait_for_condition(async_condition_predictor, timeout, retry_interval_ms, **kwargs)


def wait_until_succeeded_without_exception(
    func: Callable[..., Any],
    exceptions: tuple[type[BaseException], ...],
    *args: Any,
    timeout_ms: float = 1000,
    retry_interval_ms: float = 100,
    raise_last_ex: bool = False,
) -> bool:
    """Calls a function until it returns.

    Args:
        func: The function.
        exceptions: What it may raise until then.
        *args: For it.
        timeout_ms: Milliseconds after which to give up.
        retry_interval_ms: Milliseconds between two calls.
        raise_last_ex: Raise instead of returning False.

    Returns:
        Whether it has returned.

    Raises:
        Exception: It has not, with the last one as its text.
    """
    if not isinstance(exceptions, tuple):
        raise Exception("exceptions arguments should be given as a tuple")
    deadline = time.monotonic() + timeout_ms / 1000
    last = ""
    while time.monotonic() <= deadline:
        try:
            func(*args)
            return True
        except exceptions:
            last = traceback.format_exc()
        time.sleep(retry_interval_ms / 1000)
    if raise_last_ex:
        raise Exception(f"Timed out while testing, {last}")
    return False


def wait_until_server_available(address: str, timeout_ms: float = 5000, retry_interval_ms: float = 100) -> bool:
    """Waits until somebody listens at an address.

    Args:
        address: "host:port".
        timeout_ms: Milliseconds after which to give up.
        retry_interval_ms: Milliseconds between two looks.

    Returns:
        Whether somebody does.
    """
    host, _, port = address.rpartition(":")

    def look() -> None:
        socket.create_connection((host, int(port)), timeout=1).close()

    return wait_until_succeeded_without_exception(
        look, (OSError,), timeout_ms=timeout_ms, retry_interval_ms=retry_interval_ms
    )


def wait_for_num_nodes(num_nodes: int, timeout_s: float) -> None:
    """Waits until the cluster has nodes.

    Args:
        num_nodes: How many at least.
        timeout_s: Seconds.

    Raises:
        RuntimeError: It has fewer.
    """
    wait_for_condition(lambda: len(ray.nodes()) >= num_nodes, timeout=timeout_s)


def wait_for_num_actors(num_actors: int, state: str | None = None, timeout: float = 10) -> None:
    """Waits until there are actors.

    Args:
        num_actors: How many at least.
        state: In which state, as `list_actors` names it; any when None.
        timeout: Seconds.

    Raises:
        RayTestTimeoutException: There are fewer.
    """
    from ray_rs.util.state import list_actors

    filters = [] if state is None else [("state", "=", state)]
    _wait(lambda: len(list_actors(filters=filters)) >= num_actors, timeout, "global state")


def kill_actor_and_wait_for_failure(actor: Any, timeout: float = 10, retry_interval_ms: float = 100) -> None:
    """Kills an actor and waits until that is known.

    Args:
        actor: Its handle.
        timeout: Seconds.
        retry_interval_ms: Milliseconds between two looks.

    Raises:
        RuntimeError: It was not known in time.
    """
    from ray_rs.util.state import get_actor

    actor_id = actor._actor_id.hex()

    def restarts() -> int | None:
        row = get_actor(actor_id)
        return None if row is None or row.state == "DEAD" else row.num_restarts

    before = restarts()
    ray.kill(actor)
    wait_for_condition(lambda: before is None or restarts() != before, timeout, retry_interval_ms)


# ------------------------------------------------------------------------------------------------------- small things


def convert_actor_state(state: int | None) -> str | None:
    """The name of an actor's state, as `ray._private.state.actors` says it.

    Args:
        state: Of `ray._private.gcs_utils.ActorTableData`.

    Returns:
        The name; None for none.
    """
    from ray_rs._private.gcs_utils import ActorTableData

    return ActorTableData(state).name if state else None


def is_placement_group_removed(pg: Any) -> bool:
    """Whether a placement group is known to be removed.

    Args:
        pg: The group.
    """
    return ray.util.placement_group_table(pg).get("state") == "REMOVED"


def placement_group_assert_no_leak(pgs_created: Iterable[Any]) -> None:
    """Removes groups, and waits until the cluster has back what they held.

    Args:
        pgs_created: The groups. Nothing else may hold resources.

    Raises:
        AssertionError: Something is still held after ten seconds.
    """
    for group in pgs_created:
        ray.util.remove_placement_group(group)

    def all_is_back() -> bool:
        table, free = ray.util.placement_group_table(), ray.available_resources()
        return (
            all(row["state"] == "REMOVED" for row in table.values())
            and not any("_group_" in name for name in free)
            and all(
                free.get(name) == amount
                for name, amount in ray.cluster_resources().items()
                if name not in ("memory", "object_store_memory")
            )
        )

    _wait(all_is_back, 10, "all resources to be free again")


def find_free_port() -> int:
    """A port of the loopback that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def generate_system_config_map(**kwargs: Any) -> dict[str, Any]:
    """Ray's knobs as a parameter of a fixture.

    Args:
        **kwargs: The knobs.
    """
    return {"_system_config": kwargs}


def dicts_equal(dict1: dict[Any, Any], dict2: dict[Any, Any], abs_tol: float = 1e-4) -> bool:
    """Whether two dictionaries are equal, floating-point numbers nearly.

    Args:
        dict1: One.
        dict2: The other.
        abs_tol: By how much numbers may differ.
    """

    def alike(one: Any, other: Any) -> bool:
        both = isinstance(one, float) and isinstance(other, float)
        return bool(math.isclose(one, other, abs_tol=abs_tol) if both else one == other)

    return dict1.keys() == dict2.keys() and all(alike(dict1[key], dict2[key]) for key in dict1)


def same_elements(elems_a: Iterable[Any], elems_b: Iterable[Any]) -> bool:
    """Whether two collections hold the same, which need not be hashable.

    Args:
        elems_a: One.
        elems_b: The other.
    """
    a, b = list(elems_a), list(elems_b)
    return all(each in b for each in a) and all(each in a for each in b)


def recursive_fnmatch(dirpath: str, pattern: str) -> list[str]:
    """Files below a directory whose names match.

    Args:
        dirpath: The directory.
        pattern: As of `fnmatch`.
    """
    return [os.path.join(root, name) for root, _, names in os.walk(dirpath) for name in fnmatch.filter(names, pattern)]


@ray.remote
def _put(value: Any) -> Any:
    return value


def put_object(obj: Any, use_ray_put: bool) -> Any:
    """A reference to a value.

    Args:
        obj: The value.
        use_ray_put: By `put`; else it is what a task returns.
    """
    return ray.put(obj) if use_ray_put else _put.remote(obj)


def object_memory_usage() -> float:
    """How much of the resource `object_store_memory` is in use, in bytes."""
    name = "object_store_memory"
    return float(ray.cluster_resources().get(name, 0) - ray.available_resources().get(name, 0))


def get_other_nodes(cluster: Any, exclude_head: bool = False) -> list[Any]:
    """The nodes of a `Cluster` that this process is not connected to.

    Args:
        cluster: The cluster.
        exclude_head: Not the head either.
    """
    own = ray.get_runtime_context().get_node_id()
    return [node for node in cluster.list_all_nodes() if node.node_id != own and not (exclude_head and node.is_head)]


def get_non_head_nodes(cluster: Any) -> list[Any]:
    """The nodes of a `Cluster` but its head.

    Args:
        cluster: The cluster.
    """
    return [node for node in cluster.list_all_nodes() if not node.is_head]


# --------------------------------------------------------------------------------------- what the driver is told of


@dataclass
class ErrorMessage:
    """An error that the driver was told of.

    Attributes:
        type: One of `ray_constants`' names that end in `_ERROR`.
        error_message: Its text.
        job_id: The job, as bytes.
    """

    type: str
    error_message: str
    job_id: bytes


class Subscriber:
    """What the driver is told of from now on, for `get_error_message` and `get_log_message`.

    It hears what this process shows, so of workers' lines only those of its own job, and none with
    `log_to_driver=False`.
    """

    def __init__(self, convert: Callable[..., Any]) -> None:
        self._found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._convert = convert
        _logs.listeners.append(self._on_event)

    def _on_event(self, kind: str, *details: Any) -> None:
        message = self._convert(kind, *details)
        if message is not None:
            self._found.put(message)

    def poll(self, timeout: float | None = None) -> Any:
        """The next message; None when none comes.

        Args:
            timeout: Seconds; None: no limit.
        """
        try:
            return self._found.get(timeout=None if timeout is None else max(timeout, 0))
        except queue.Empty:
            return None

    def close(self) -> None:
        """Hears no more."""
        if self._on_event in _logs.listeners:
            _logs.listeners.remove(self._on_event)


def _as_error(kind: str, *details: Any) -> ErrorMessage | None:
    if kind != "worker_crashed":
        return None
    job = global_worker.current_job_id.binary()
    return ErrorMessage(ray_constants.WORKER_DIED_PUSH_ERROR, details[0], job)


def _as_lines(kind: str, *details: Any) -> dict[str, Any] | None:
    if kind != "log":
        return None
    name, pid, is_stderr, lines = details
    job = global_worker.current_job_id.hex()
    return {"pid": str(pid), "job": job, "is_err": is_stderr, "lines": list(lines), "actor_name": name}


def init_error_pubsub() -> Subscriber:
    """Hears errors from now on: workers that die while they run a task."""
    return Subscriber(_as_error)


def init_log_pubsub() -> Subscriber:
    """Hears the lines that workers print from now on."""
    return Subscriber(_as_lines)


def get_error_message(
    subscriber: Subscriber, num: float = 1e6, error_type: str | None = None, timeout: float = 20
) -> list[ErrorMessage]:
    """Errors that a subscriber has heard.

    Args:
        subscriber: Of `init_error_pubsub`.
        num: Return when there are so many.
        error_type: Only those of this type; all when None.
        timeout: Return after so many seconds.
    """
    return _heard(subscriber, num, timeout, lambda error: error_type in (None, error.type))


def get_log_data(
    subscriber: Subscriber,
    num: float = 1e6,
    timeout: float = 20,
    job_id: str | None = None,
    matcher: Callable[[str], bool] | None = None,
) -> list[dict[str, Any]]:
    """Batches of lines that a subscriber has heard.

    Args:
        subscriber: Of `init_log_pubsub`.
        num: Return when there are so many.
        timeout: Return after so many seconds.
        job_id: Only of this job, as hexadecimal digits.
        matcher: Only batches with a line for which this is true.

    Returns:
        Of each: "pid", "job", "is_err", "lines", and as "actor_name" what the lines' prefix says.
    """

    def wanted(batch: dict[str, Any]) -> bool:
        return job_id in (None, batch["job"]) and (matcher is None or any(map(matcher, batch["lines"])))

    return _heard(subscriber, num, timeout, wanted)


def get_log_message(
    subscriber: Subscriber,
    num: float = 1e6,
    timeout: float = 20,
    job_id: str | None = None,
    matcher: Callable[[str], bool] | None = None,
) -> list[list[str]]:
    """The lines of `get_log_data`.

    Args:
        subscriber: See there.
        num: See there.
        timeout: See there.
        job_id: See there.
        matcher: See there.
    """
    return [batch["lines"] for batch in get_log_data(subscriber, num, timeout, job_id, matcher)]


def get_log_batch(
    subscriber: Subscriber,
    num: float,
    timeout: float = 20,
    job_id: str | None = None,
    matcher: Callable[[dict[str, Any]], bool] | None = None,
) -> list[dict[str, Any]]:
    """The same as `get_log_data`, with a matcher for batches.

    Args:
        subscriber: See there.
        num: See there.
        timeout: See there.
        job_id: See there.
        matcher: Only batches for which this is true.
    """
    return _heard(
        subscriber,
        num,
        timeout,
        lambda batch: job_id in (None, batch["job"]) and (matcher is None or matcher(batch)),
    )


def _heard(subscriber: Subscriber, num: float, timeout: float, wanted: Callable[[Any], bool]) -> list[Any]:
    deadline = time.monotonic() + timeout
    found: list[Any] = []
    while len(found) < num:
        message = subscriber.poll(deadline - time.monotonic())
        if message is None:
            break
        if wanted(message):
            found.append(message)
    return found
