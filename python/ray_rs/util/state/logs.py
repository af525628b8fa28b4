"""The session's log files."""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Any

from ray_rs import _elsewhere
from ray_rs.util.state._rows import Source
from ray_rs.util.state.exception import RayStateApiException

__all__ = ["get_log", "list_logs"]

# Between two looks at a file that is followed; on another node each is a task.
_PAUSE_S = 0.2
_PAUSE_ELSEWHERE_S = 0.5
_PIECE_BYTES = 1 << 20
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LOCATORS = ("filename", "actor_id", "task_id", "pid", "submission_id")


def _category(name: str) -> str:
    for start, category in (
        ("worker-", "worker"),
        ("zygote-", "internal"),
        ("gcs", "gcs_server"),
        ("raylet", "raylet"),
    ):
        if name.startswith(start):
            if category == "worker":
                return "worker_err" if name.endswith(".err") else "worker_out"
            return category
    return "driver" if name.startswith("job-driver") else "internal"


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: float = 30,
) -> dict[str, list[str]]:
    """Lists the log files of a node.

    Args:
        address: Of the session; this process's, else the newest one, when None.
        node_id: The node; the session's own when None.
        node_ip: The same by its address; of several nodes there, one.
        glob_filter: Only files whose names match.
        timeout: Seconds to wait for an answer.

    Returns:
        Names by category: "worker_out", "worker_err", "raylet", "gcs_server", "internal".

    Raises:
        RayStateApiException: There is no such node.
        ServerUnavailable: There is no session.
    """
    source = Source(address, timeout)
    node = _wanted_node(source, node_id, node_ip)
    if node is None:
        return _names_in(source.directory, glob_filter)
    with _elsewhere.as_driver(source):
        return _ask(node, timeout, _names_here, glob_filter)  # type: ignore[no-any-return]


def _names_in(directory: str, glob_filter: str | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(f"{directory}/logs")):
        if fnmatch.fnmatch(name, glob_filter or "*"):
            found.setdefault(_category(name), []).append(name)
    return found


def _names_here(glob_filter: str | None) -> dict[str, list[str]]:
    return _names_in(_elsewhere.own_directory(), glob_filter)


def _wanted_node(source: Source, node_id: str | None, node_ip: str | None) -> str | None:
    """Which node is to be asked; None: nobody says, or there is only one."""
    if node_id is None and node_ip is None:
        return None
    nodes = [node for node in source.observer.nodes() if node["alive"]]
    found = [
        node["node_id"] for node in nodes if node_id in (None, node["node_id"]) and node_ip in (None, node["address"])
    ]
    if not found:
        known = {node["node_id"]: node["address"] for node in nodes}
        raise RayStateApiException(f"There is no living node {node_id or node_ip}. Known nodes: {known}.")
    return str(found[0]) if len(nodes) > 1 else None


def _ask(node: str, timeout: float, look: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return _elsewhere.run_on(node, look, *arguments, timeout=timeout)
    except _elsewhere.NodeError as error:
        if isinstance(error.cause, RayStateApiException):
            raise error.cause from None
        raise RayStateApiException(str(error)) from None


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: float = 30,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
) -> Iterator[Any]:
    """Reads a log file. Exactly one of `filename`, `actor_id`, `task_id`, `pid` and `submission_id`
    says which.

    Args:
        address: Of the session; this process's, else the newest one, when None.
        node_id: The node; where the actor or task ran, else the session's own, when None.
        node_ip: The same by its address; of several nodes there, one.
        filename: A name that `list_logs` gives.
        actor_id: What the actor's process writes.
        task_id: What the process writes that ran the task: all of it, not only this task's lines.
        pid: What the worker with this process id writes.
        follow: Go on with what is written later, until the session ends.
        tail: So many of the last lines; -1: all.
        timeout: Seconds to wait for an answer.
        suffix: "out" or "err".
        encoding: Of the text; None: bytes.
        errors: What to do with bytes that are no text.
        submission_id: What the command of this submitted job writes, if it ran on this machine.
        attempt_number: Which try of the task.
        _interval: Without effect.
        filter_ansi_code: Remove colours.

    Yields:
        Pieces of text.

    Raises:
        ValueError: Not exactly one locator, or a bad suffix.
        RayStateApiException: There is no such file.
        ServerUnavailable: There is no session.
    """
    locators = dict(zip(_LOCATORS, (filename, actor_id, task_id, pid, submission_id), strict=True))
    given = [name for name, value in locators.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"Exactly one of {', '.join(_LOCATORS)} must be given, got {', '.join(given) or 'none'}.")
    if suffix not in ("out", "err"):
        raise ValueError(f"suffix must be 'out' or 'err', not {suffix!r}")
    source = Source(address, timeout)
    node = _wanted_node(source, node_id, node_ip)
    worker = ("", 0)
    if submission_id is not None:
        filename = f"job-driver-{submission_id}.log"
    elif filename is None:
        worker, ran_on = _worker_of(source, actor_id, task_id, attempt_number, pid)
        node = node or (_wanted_node(source, ran_on, None) if ran_on else None)
    options = (tail, encoding, errors or "strict", filter_ansi_code)
    if node is not None:
        return _read_elsewhere(source, node, timeout, (filename, worker, suffix), follow, *options)
    return _read(_path_in(source.directory, filename, worker, suffix), follow, *options)


def _path_in(directory: str, filename: str | None, worker: tuple[str, int], suffix: str) -> str:
    if filename is None:
        filename = _file_of(directory, worker, suffix)
    path = os.path.join(directory, "logs", filename)
    if os.path.basename(filename) != filename or not os.path.isfile(path):
        raise RayStateApiException(f"There is no log file {filename!r}; `list_logs()` says which there are.")
    return path


def _worker_of(
    source: Source, actor_id: str | None, task_id: str | None, attempt: int, pid: int | None
) -> tuple[tuple[str, int], str | None]:
    """Id and process id of the worker (the id is "" when any with the process id is meant), and its node if known."""
    if pid is not None:
        return ("", pid), None
    if actor_id is not None:
        for actor in source.observer.actors():
            if actor["actor_id"] == actor_id and actor["pid"]:
                return (actor["worker_id"], actor["pid"]), actor["node_id"]
        raise RayStateApiException(f"There is no actor {actor_id}, or it has had no process.")
    for row in source.rows("tasks"):
        if row.task_id == task_id and row.attempt_number == attempt and row.worker_pid:
            # The record of a task that has ended names its owner's node.
            nodes = {worker.worker_id: worker.node_id for worker in source.rows("workers")}
            return (row.worker_id, row.worker_pid), nodes.get(row.worker_id, row.node_id)
    raise RayStateApiException(f"There is no attempt {attempt} of a task {task_id}, or it has run nowhere.")


def _file_of(directory: str, worker: tuple[str, int], suffix: str) -> str:
    worker_id, pid = worker
    for name in sorted(os.listdir(f"{directory}/logs"), reverse=True):
        if name.startswith(f"worker-{worker_id}") and name.endswith(f"-{pid}.{suffix}"):
            return name
    raise RayStateApiException(f"There is no log file of a worker with pid {pid}.")


def _text(data: bytes, encoding: str | None, errors: str, plain: bool) -> Any:
    if encoding is None:
        return data
    text = data.decode(encoding, errors)
    return _COLOURS.sub("", text) if plain else text


def _last_lines(file: IO[bytes], tail: int) -> bytes:
    return b"".join(deque(file, maxlen=tail))


def _read(path: str, follow: bool, tail: int, encoding: str | None, errors: str, plain: bool) -> Iterator[Any]:
    with open(path, "rb") as file:
        if tail >= 0:
            yield _text(_last_lines(file, tail), encoding, errors, plain)
        while True:
            lines = file.readlines(_PIECE_BYTES)
            if lines:
                yield _text(b"".join(lines), encoding, errors, plain)
            elif follow and os.path.exists(path):
                time.sleep(_PAUSE_S)
            else:
                return


def _piece_here(which: tuple[str | None, tuple[str, int], str], tail: int, offset: int) -> tuple[bytes, int]:
    """Lines from a byte on (with `tail`: the last ones), and where the next begin."""
    with open(_path_in(_elsewhere.own_directory(), *which), "rb") as file:
        if tail >= 0:
            return _last_lines(file, tail), file.tell()
        file.seek(offset)
        return b"".join(file.readlines(_PIECE_BYTES)), file.tell()


def _read_elsewhere(
    source: Source,
    node: str,
    timeout: float,
    which: tuple[str | None, tuple[str, int], str],
    follow: bool,
    tail: int,
    encoding: str | None,
    errors: str,
    plain: bool,
) -> Iterator[Any]:
    """As `_read`, until the node is gone."""
    with _elsewhere.as_driver(source):
        data, offset = _ask(node, timeout, _piece_here, which, tail, 0)
        while True:
            if data:
                yield _text(data, encoding, errors, plain)
            elif not follow:
                return
            else:
                time.sleep(_PAUSE_ELSEWHERE_S)
                if not any(each["node_id"] == node and each["alive"] for each in source.observer.nodes()):
                    return
            data, offset = _ask(node, timeout, _piece_here, which, -1, offset)
