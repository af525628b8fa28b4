"""What the page shows: the rows of its sections, and what it asks for one by one.

The service looks at a section again and again while somebody has it before their eyes, and sends what has changed
(`rust/web/src/board.rs`); so a look gives all rows by key, each a plain object.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from ray_rs import _core
from ray_rs.util.state import _rows
from ray_rs.util.state import _tasks as _state_tasks
from ray_rs.util.state._rows import Source

__all__ = ["PageError", "flame", "look", "part", "stack"]

Rows = dict[str, Any]

# Rows that a section has at most: of objects the largest, of actors those that live first.
_MOST_ROWS = 5_000
_MOST_UNFINISHED = 5_000
_MOST_TASKS = 500
_ENDED = ("FINISHED", "FAILED")
_LOG_PIECE = 256 << 10
_SEARCHED_BYTES = 64 << 20
_MOST_FINDINGS = 500
_LONGEST_LINE = 2_000
_MOST_FLAME_S = 60
# The log of tasks is asked for again after so many times what that took last.
_RECORDS_SHARE = 30


class PageError(ValueError):
    """What is wrong with a request."""


def look(section: str) -> Rows:
    """Looks at a section.

    Args:
        section: One of `SECTIONS` of `rust/web/src/events.rs`.

    Returns:
        Its rows by key.

    Raises:
        ServerUnavailable: The session does not answer.
    """
    source = Source()
    return source.answer(lambda: _SECTIONS[section](source))


def part(name: str, query: str) -> str:
    """Answers a question of the page.

    Args:
        name: "tasks", "timeline", "why", "files", "log", "worker_log" or "search".
        query: As in an address.

    Returns:
        JSON.

    Raises:
        PageError: There is no such part, or the query makes no sense.
        ServerUnavailable: The session does not answer.
    """
    if name not in _PARTS:
        raise PageError(f"There is no {name!r}; there are {', '.join(sorted(_PARTS))}.")
    source = Source()
    words = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=20))
    return source.answer(lambda: _PARTS[name](source, words))


# --------------------------------------------------------------------------------------------------------------- nodes


def _nodes(source: Source) -> Rows:
    from ray_rs.scripts import _status

    cluster = source.observer.cluster()
    rows: Rows = {}
    for node, row in zip(cluster["nodes"], _rows.node_rows(cluster["nodes"]), strict=True):
        rows[node["node_id"]] = {
            **row.asdict(),
            "resources_total": _shown(node["total"]),
            "resources_available": _shown(node["available"]) if node["alive"] else {},
        }
    rows["waiting"] = _status.waiting_of(source, cluster)
    rows["store"] = source.observer.store_stats()
    return rows


def _shown(resources: dict[str, float]) -> dict[str, float]:
    """Without those that are the engine's own."""
    return {
        name: amount for name, amount in resources.items() if not name.startswith("node:") and "_group_" not in name
    }


# --------------------------------------------------------------------------------------------------------------- tasks


class _Records:
    """The log of tasks that have ended, asked for again not more often than its size allows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: _core.TaskRecords | None = None
        self._until = 0.0

    def of(self, source: Source) -> _core.TaskRecords:
        with self._lock:
            began = time.monotonic()
            if self._kept is None or began > self._until:
                self._kept = _core.TaskRecords(source.observer)
                now = time.monotonic()
                self._until = now + (now - began) * _RECORDS_SHARE
            return self._kept


_records = _Records()


def _unfinished(source: Source) -> list[Any]:
    """Tasks that have not ended, the latest."""
    filters = [("state", "!=", state) for state in _ENDED]
    return _state_tasks.page(source, filters, _MOST_UNFINISHED).rows


def _creations(source: Source, records: _core.TaskRecords) -> list[Any]:
    """Constructors of which only the control store knows that they have ended."""
    told = set(records.creations())
    rows = _state_tasks.page(source, [("type", "=", "ACTOR_CREATION_TASK")], _MOST_UNFINISHED).rows
    return [row for row in rows if row.state in _ENDED and row.task_id not in told]


def _tasks(source: Source) -> Rows:
    # How many there are of each is counted where they are; the records say how long they took.
    counts = _state_tasks.counts(source)
    records = _records.of(source)
    times = {(sums["name"], sums["type"]): sums for sums in json.loads(records.by_name())}
    rows: Rows = {}
    for name, kind, state, count in counts:
        row = rows.get(f"{name} {kind}")
        if row is None:
            sums = times.get((name, kind)) or dict.fromkeys(
                ("ran", "run_us", "longest_us", "wait_us", "last_end_us"), 0
            )
            row = {**sums, "name": name, "type": kind, "finished": 0, "failed": 0, "states": {}}
            rows[f"{name} {kind}"] = row
        if state in _ENDED:
            row[state.lower()] += count
        else:
            row["states"][state] = count
    rows[""] = {"ended": len(records), "dropped": records.dropped, "span_us": records.span_us()}
    return rows


def _task_page(source: Source, words: dict[str, str]) -> str:
    offset, limit = _number(words, "offset", 0, 1 << 40), _number(words, "limit", 100, _MOST_TASKS)
    name, search, state = words.get("name"), words.get("search", ""), words.get("state", "")
    records = _records.of(source)
    wanted = search.lower()
    first = [
        {**task.asdict(), "outcome": None}
        for task in (*_unfinished(source), *_creations(source, records))
        if (name is None or task.name == name)
        and (wanted in task.name.lower() or task.task_id.startswith(wanted))
        and (not state or task.state == state or (state == "UNFINISHED" and task.state not in _ENDED))
    ]
    first.sort(key=lambda task: (task["start_time_ms"] or 0, task["task_id"]), reverse=True)
    rows = first[offset : offset + limit]
    total = len(first)
    if state in ("", "FINISHED", "FAILED"):
        rest = limit - len(rows)
        failed = None if not state else state == "FAILED"
        found, page = records.page(max(0, offset - len(first)), rest, name, search, failed)
        total += found
        rows += [_of_record(row) for row in json.loads(page)]
    return json.dumps({"total": total, "rows": rows})


def _of_record(record: dict[str, Any]) -> dict[str, Any]:
    worker = record["worker"] or {}
    return {
        "task_id": record["task_id"],
        "attempt_number": record["attempt_number"],
        "name": record["name"],
        "type": record["type"],
        "state": "FAILED" if record["outcome"] else "FINISHED",
        "node_id": worker.get("node_id"),
        "worker_id": worker.get("worker_id"),
        "worker_pid": worker.get("pid"),
        "creation_time_ms": record["submitted_us"] / 1000,
        "start_time_ms": record["start_us"] / 1000 if worker else None,
        "end_time_ms": record["end_us"] / 1000,
        "error_message": record["error"],
    }


def _timeline(source: Source, words: dict[str, str]) -> str:
    records = _records.of(source)
    running = [
        {"name": task.name, "worker_id": task.worker_id, "pid": task.worker_pid, "start_us": task.start_time_ms * 1000}
        for task in _unfinished(source)
        if task.start_time_ms is not None and task.worker_id
    ]
    now = time.time() * 1e6
    span = records.span_us() or (min((each["start_us"] for each in running), default=now - 1e6), now)
    first, last = span[0], now if running else span[1]
    from_us = _number(words, "from_us", int(first), 1 << 60)
    to_us = _number(words, "to_us", int(last) + 1, 1 << 60)
    chart = records.chart(from_us, to_us, _number(words, "columns", 1000, 4096))
    about = {"from_us": from_us, "to_us": to_us, "first_us": int(first), "last_us": int(last), "running": running}
    return json.dumps({**about, **json.loads(chart)})


def _number(words: dict[str, str], name: str, default: int, most: int) -> int:
    text = words.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise PageError(f"{name} must be a number, not {text[:40]!r}")
    return min(int(text), most)


# ------------------------------------------------------------------------------------------------------- other sections


def _actors(source: Source) -> Rows:
    rows = source_rows(source, "actors")
    rows.sort(key=lambda row: row.state == "DEAD")
    return {row.actor_id: _without(row.asdict(), "serialized_runtime_env") for row in rows[:_MOST_ROWS]}


def source_rows(source: Source, kind: str) -> list[Any]:
    """Rows of the state API.

    Args:
        source: The session.
        kind: Of `KINDS`.

    Returns:
        The rows, all of them.
    """
    return _rows.KINDS[kind][1](source)


def _without(row: dict[str, Any], *columns: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in columns}


def _objects(source: Source) -> Rows:
    from ray_rs import _memory

    found, unlisted = _memory.reference_rows(source)
    found.sort(key=lambda row: row["object_size"] or 0, reverse=True)
    sites: dict[str, dict[str, Any]] = {}
    for row in _memory.in_store(found):
        site = sites.setdefault(row["call_site"], {"objects": 0, "bytes": 0})
        site["objects"] += 1
        site["bytes"] += row["object_size"] or 0
    rows: Rows = {}
    for number, row in enumerate(found[:_MOST_ROWS]):
        key = f"{row['object_id'] or number} {row['pid']}"
        while key in rows:
            key += "'"
        rows[key] = row
    rows[""] = {"references": len(found) + unlisted, "sites": sites, "store": source.observer.store_stats()}
    return rows


def _groups(source: Source) -> Rows:
    return {row.placement_group_id: row.asdict() for row in source_rows(source, "placement-groups")[:_MOST_ROWS]}


def _jobs(source: Source) -> Rows:
    rows = source_rows(source, "jobs")
    return {row.submission_id or row.job_id: row.asdict() for row in rows[-_MOST_ROWS:]}


def _workers(source: Source) -> Rows:
    rows = {row.worker_id: row.asdict() for row in source_rows(source, "workers") if row.is_alive}
    for process in source.observer.describe_processes(limit=100)["processes"]:
        row = rows.get(process["process"]["worker_id"])
        if row is not None:
            names = {task["task_id"]: task["name"] for task in process["tasks"]}
            row["runs"] = [task.get("name") or names.get(task["task_id"], "") for task in process["executing"]]
            row["actor"] = process["actor"] and process["actor"]["class_name"]
            row["job_id"] = process["job_id"]
    return rows


def _logs(source: Source) -> Rows:
    return _files_in(source.directory)


def _files(source: Source, words: dict[str, str]) -> str:
    """Log files by name, of whichever node."""
    return _in_logs(source, _listed, words)


def _listed(words: dict[str, str]) -> str:
    return json.dumps({"files": _files_in(_core.process_info()["session_dir"])})


def _files_in(directory: str) -> Rows:
    with os.scandir(f"{directory}/logs") as entries:
        files = {entry.name: entry.stat() for entry in entries if entry.is_file(follow_symlinks=False)}
    return {name: {"bytes": about.st_size, "changed_ms": int(about.st_mtime * 1000)} for name, about in files.items()}


# ---------------------------------------------------------------------------------------------------------------- logs


def _log_path(directory: str, name: str) -> str:
    path = f"{directory}/logs/{name}"
    if not name or os.path.basename(name) != name or not os.path.isfile(path) or os.path.islink(path):
        raise PageError(f"There is no log file {name[:100]!r}.")
    return path


def _log(source: Source, words: dict[str, str]) -> str:
    """A piece of a file, on whichever node it is."""
    return _in_logs(source, _piece, words)


def _in_logs(source: Source, look: Callable[..., str], words: dict[str, str]) -> str:
    """Looks at the log files of the node that is named, else at those of this one."""
    node = words.get("node_id")
    if node is None:
        return look(words)
    if not any(each["node_id"] == node and each["alive"] for each in source.observer.nodes()):
        raise PageError(f"There is no living node {node[:100]!r}.")
    return str(_on_node(node, look, words))


def _piece(words: dict[str, str]) -> str:
    """From a byte on, or the last of it."""
    with open(_log_path(_core.process_info()["session_dir"], words.get("file", "")), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = _number(words, "offset", max(0, size - _LOG_PIECE), 1 << 60)
        file.seek(offset)
        data = file.read(_LOG_PIECE)
    if offset and "offset" not in words:
        # From the beginning of a line on.
        cut = data.find(b"\n") + 1
        offset, data = offset + cut, data[cut:]
    if offset + len(data) < size:
        # What is only begun comes with the next piece, unless there is no end to it.
        data = data[: data.rfind(b"\n") + 1] or data
    text = data.decode(errors="replace")
    return json.dumps({"text": text, "offset": offset, "next": offset + len(data), "bytes": size})


def _search(source: Source, words: dict[str, str]) -> str:
    """Lines of log files, on whichever node they are."""
    return _in_logs(source, _found, words)


def _found(words: dict[str, str]) -> str:
    """Lines that contain a text, letters of any case, of one file or of all, the youngest file first."""
    directory = _core.process_info()["session_dir"]
    wanted = words.get("text", "").lower().encode()
    if not wanted:
        raise PageError("There must be a text to search for.")
    name = words.get("file")
    known = _files_in(directory)
    if name:
        _log_path(directory, name)
    names = [name] if name else sorted(known, key=lambda name: known[name]["changed_ms"], reverse=True)
    found: list[dict[str, Any]] = []
    budget = _SEARCHED_BYTES
    complete = True
    for name in names:
        with open(f"{directory}/logs/{name}", "rb") as file:
            number, offset = 0, 0
            # A line without end is read in parts.
            while line := file.readline(min(1 << 20, budget)):
                number, budget = number + 1, budget - len(line)
                if wanted in line.lower():
                    text = line[:_LONGEST_LINE].decode(errors="replace").rstrip("\n")
                    found.append({"file": name, "line": number, "offset": offset, "text": text})
                offset += len(line)
                if len(found) >= _MOST_FINDINGS or budget <= 0:
                    complete = False
                    break
        if not complete:
            break
    return json.dumps({"found": found, "complete": complete})


# --------------------------------------------------------------------------------------------------------------- asking


def _why(source: Source, words: dict[str, str]) -> str:
    return json.dumps({"why": source.observer.why(words.get("id", ""))})


def stack(whose: dict[str, Any]) -> str:
    """Stacks of a worker.

    Args:
        whose: "pid" and "node_id".

    Returns:
        Text.

    Raises:
        PageError: There is no such worker.
        StackError: It does not answer.
    """
    from ray_rs import _stacks

    pid, node = _worker_of(whose)
    return str(_on_node(node, _stacks.dump, pid))


def flame(whose: dict[str, Any]) -> str:
    """Where a worker's threads spend their time.

    Args:
        whose: "pid" and "node_id", and for how many "seconds" to look; by default 5, at most 60.

    Returns:
        JSON: "rows" as of `_flame.rows`.

    Raises:
        PageError: There is no such worker, or it is to be looked at for too long.
        StackError: It does not answer.
    """
    from ray_rs import _flame

    seconds = whose.get("seconds", 5)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= _MOST_FLAME_S:
        raise PageError(f"seconds must be more than 0 and at most {_MOST_FLAME_S}, not {str(seconds)[:40]}.")
    pid, node = _worker_of(whose)
    return json.dumps({"rows": _on_node(node, _flame.rows, pid, seconds, timeout=30.0 + seconds)})


def _worker_of(whose: dict[str, Any]) -> tuple[int, str]:
    """Process and node of a worker that is there."""
    pid, node = whose.get("pid"), whose.get("node_id")
    if not isinstance(pid, int) or not isinstance(node, str):
        raise PageError("A worker is named by its pid and its node_id.")
    source = Source()
    living = source.answer(lambda: [row for row in source_rows(source, "workers") if row.is_alive])
    if not any((row.pid, row.node_id) == (pid, node) for row in living):
        raise PageError(f"There is no worker with pid {pid} on that node.")
    return pid, node


def _on_node(node: str, look: Callable[..., Any], *arguments: Any, timeout: float = 30.0) -> Any:
    """Looks at something where it is."""
    from ray_rs import _elsewhere, _stacks

    try:
        return _elsewhere.run_on(node, look, *arguments, timeout=timeout)
    except _elsewhere.NodeError as error:
        if isinstance(error.cause, PageError):
            raise error.cause from None
        raise _stacks.StackError(str(error)) from None


def _worker_log(source: Source, words: dict[str, str]) -> str:
    """The last of what a worker has printed, on whichever node it is."""
    pid, node = _number(words, "pid", 0, 1 << 30), words.get("node_id", "")
    if not any(each["node_id"] == node and each["alive"] for each in source.observer.nodes()):
        raise PageError(f"There is no living node {node[:100]!r}.")
    return json.dumps({"text": _on_node(node, _printed_by, pid)})


def _printed_by(pid: int) -> str:
    """What the latest worker with a process id has printed on this node."""
    logs = f"{_core.process_info()['session_dir']}/logs"
    texts = []
    for suffix in ("out", "err"):
        names = [name for name in os.listdir(logs) if name.startswith("worker-") and name.endswith(f"-{pid}.{suffix}")]
        for name in sorted(names, key=lambda name: os.stat(f"{logs}/{name}").st_mtime)[-1:]:
            with open(f"{logs}/{name}", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_PIECE))
                texts.append(f"== {name}\n{file.read(_LOG_PIECE).decode(errors='replace')}")
    if not texts:
        raise PageError(f"There is no log of a worker with pid {pid} on that node.")
    return "\n".join(texts)


_SECTIONS: dict[str, Callable[[Source], Rows]] = {
    "actors": _actors,
    "groups": _groups,
    "jobs": _jobs,
    "logs": _logs,
    "nodes": _nodes,
    "objects": _objects,
    "tasks": _tasks,
    "workers": _workers,
}
_PARTS: dict[str, Callable[[Source, dict[str, str]], str]] = {
    "tasks": _task_page,
    "timeline": _timeline,
    "why": _why,
    "files": _files,
    "log": _log,
    "worker_log": _worker_log,
    "search": _search,
}
