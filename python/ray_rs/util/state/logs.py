"""The session's log files."""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Iterator
from typing import Any

from ray_rs.util.state._rows import Source
from ray_rs.util.state.exception import RayStateApiException

__all__ = ["get_log", "list_logs"]

# Between two looks at a file that is followed.
_PAUSE_S = 0.2
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
        node_id: The node; there is one.
        node_ip: The same by its address.
        glob_filter: Only files whose names match.
        timeout: Seconds to wait for an answer.

    Returns:
        Names by category: "worker_out", "worker_err", "raylet", "gcs_server", "internal".

    Raises:
        RayStateApiException: There is no such node.
        ServerUnavailable: There is no session.
    """
    source = Source(address, timeout)
    _check_node(source, node_id, node_ip)
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(f"{source.directory}/logs")):
        if fnmatch.fnmatch(name, glob_filter or "*"):
            found.setdefault(_category(name), []).append(name)
    return found


def _check_node(source: Source, node_id: str | None, node_ip: str | None) -> None:
    if node_id is None and node_ip is None:
        return
    nodes = source.addresses()
    if (node_id is not None and node_id not in nodes) or (node_ip is not None and node_ip not in nodes.values()):
        raise RayStateApiException(f"There is no node {node_id or node_ip}. Known nodes: {nodes}.")


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
        node_id: The node; there is one.
        node_ip: The same by its address.
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
    _check_node(source, node_id, node_ip)
    if submission_id is not None:
        filename = f"job-driver-{submission_id}.log"
    elif filename is None:
        worker = _worker_of(source, actor_id, task_id, attempt_number, pid)
        filename = _file_of(source.directory, worker, suffix)
    path = os.path.join(source.directory, "logs", filename)
    if os.path.basename(filename) != filename or not os.path.isfile(path):
        raise RayStateApiException(f"There is no log file {filename!r}; `list_logs()` says which there are.")
    return _read(path, follow, tail, encoding, errors or "strict", filter_ansi_code)


def _worker_of(
    source: Source, actor_id: str | None, task_id: str | None, attempt: int, pid: int | None
) -> tuple[str, int]:
    """Id and process id of the worker; the id is "" when any with the process id is meant."""
    if pid is not None:
        return "", pid
    if actor_id is not None:
        for actor in source.observer.actors():
            if actor["actor_id"] == actor_id and actor["pid"]:
                return actor["worker_id"], actor["pid"]
        raise RayStateApiException(f"There is no actor {actor_id}, or it has had no process.")
    for row in source.rows("tasks"):
        if row.task_id == task_id and row.attempt_number == attempt and row.worker_pid:
            return row.worker_id, row.worker_pid
    raise RayStateApiException(f"There is no attempt {attempt} of a task {task_id}, or it has run nowhere.")


def _file_of(directory: str, worker: tuple[str, int], suffix: str) -> str:
    worker_id, pid = worker
    for name in sorted(os.listdir(f"{directory}/logs"), reverse=True):
        if name.startswith(f"worker-{worker_id}") and name.endswith(f"-{pid}.{suffix}"):
            return name
    raise RayStateApiException(f"There is no log file of a worker with pid {pid}.")


def _read(path: str, follow: bool, tail: int, encoding: str | None, errors: str, plain: bool) -> Iterator[Any]:
    def piece(data: bytes) -> Any:
        if encoding is None:
            return data
        text = data.decode(encoding, errors)
        return _COLOURS.sub("", text) if plain else text

    with open(path, "rb") as file:
        if tail >= 0:
            yield piece(b"".join(file.readlines()[-tail:] if tail else file.readlines()[:0]))
        while True:
            lines = file.readlines(1 << 20)
            if lines:
                yield piece(b"".join(lines))
            elif follow and os.path.exists(path):
                time.sleep(_PAUSE_S)
            else:
                return
