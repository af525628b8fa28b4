"""`doctor`: what is wrong with this machine or with a cluster, and what to do about it."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format
from ray_rs.scripts._state import add_common

__all__ = ["add", "findings"]

_GOOD, _ODD, _BAD = "ok", "odd", "wrong"
_FEW_FILES = 4096
_LITTLE_DISK, _LITTLE_SHARED = 1 << 30, 64 << 20
_FULL_DISK = 0.95
_SLOW_ANSWER_S = 1.0
# Level, what was looked at, what was found, what to do.
Finding = tuple[str, str, str, str]


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("doctor", help="say what is wrong with this machine or the cluster; exit with 1 if so")
    add_format(parser)
    add_common(parser)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    found = list(findings(arguments.address, arguments.timeout))
    if arguments.format == "default":
        for level, what, said, advice in found:
            print(f"{level:>5}  {what}: {said}" + (f"\n       {advice}" if advice else ""))
    else:
        names = ("level", "what", "found", "advice")
        print(_output.structured([dict(zip(names, each, strict=True)) for each in found], arguments.format))
    return int(any(level == _BAD for level, *_ in found))


def findings(address: str | None, timeout: float) -> Iterator[Finding]:
    """Looks at the machine, and at a session if there is one.

    Args:
        address: Of the session; the newest one when None.
        timeout: Seconds to wait for an answer.

    Yields:
        Level ("ok", "odd" or "wrong"), what was looked at, what was found, and what to do or "".
    """
    yield from _of_machine()
    from ray_rs.util.state._rows import Source
    from ray_rs.util.state.exception import ServerUnavailable

    began = time.monotonic()
    try:
        source = Source(address, timeout)
    except ServerUnavailable as error:
        level = _ODD if address is None else _BAD
        yield level, "session", str(error).splitlines()[0], "`ray_rs start --head` starts one."
        return
    for look in (_control_store, _nodes, _processes, _demand, _store):
        try:
            yield from source.answer(_all_of(look, source))
        except ServerUnavailable as error:
            log = f"Look at {source.directory}/logs/gcs.log and raylet.log."
            yield _BAD, look.__name__.strip("_").replace("_", " "), str(error).splitlines()[0], log
    waited = time.monotonic() - began
    if waited > _SLOW_ANSWER_S:
        yield _ODD, "answers", f"these took {waited:.1f} s", "The machine, or a node, is overloaded."


def _all_of(look: Callable[[Any], Iterator[Finding]], source: Any) -> Callable[[], list[Finding]]:
    return lambda: list(look(source))


# ------------------------------------------------------------------------------------------------------------- machine


def _of_machine() -> Iterator[Finding]:
    from ray_rs import __version__, _core

    yield _GOOD, "engine", f"ray_rs {__version__}, {os.path.basename(str(_core.__file__))}", ""
    if sys.platform != "linux":
        yield _BAD, "system", f"{sys.platform} is not supported", "Use Linux."
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FEW_FILES and hard < _FEW_FILES:
        yield _ODD, "open files", f"a process may have {hard}", f"Raise it to {_FEW_FILES} or more: ulimit -n."
    else:
        yield _GOOD, "open files", f"a process may have {max(soft, hard)}", ""
    yield from _of_memory()
    yield _of_disk("sessions", os.environ.get("RAY_RS_TMPDIR") or f"/tmp/ray_rs_{os.getuid()}")


def _of_memory() -> Iterator[Finding]:
    shared = shutil.disk_usage("/dev/shm")
    text = f"{_size(shared.free)} of {_size(shared.total)} are free"
    if shared.free < _LITTLE_SHARED:
        yield _BAD, "/dev/shm", text, "Give it more (docker run --shm-size), or remove what lies there."
    else:
        yield _GOOD, "/dev/shm", text, ""
    with open("/proc/meminfo") as file:
        amounts = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in file)}
    total, free = amounts["MemTotal"], amounts["MemAvailable"]
    text = f"{_size(free)} of {_size(total)} are free"
    if free < total / 20:
        yield _BAD, "memory", text, "Tasks will be held back, or ended. `ray_rs memory` says what holds objects."
    else:
        yield _GOOD, "memory", text, ""


def _of_disk(what: str, path: str) -> Finding:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    disk = shutil.disk_usage(path)
    text = f"{_size(disk.free)} of {_size(disk.total)} are free at {path}"
    if disk.free < _LITTLE_DISK or disk.used > _FULL_DISK * disk.total:
        return _ODD, f"disk of {what}", text, "Logs, and objects that do not fit into memory, need room there."
    return _GOOD, f"disk of {what}", text, ""


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


# ------------------------------------------------------------------------------------------------------------- cluster


def _control_store(source: Any) -> Iterator[Finding]:
    began = time.monotonic()
    source.observer.jobs()
    took = time.monotonic() - began
    text = f"answers within {took * 1000:.0f} ms, for {source.directory}"
    yield (_ODD if took > _SLOW_ANSWER_S else _GOOD), "control store", text, ""


def _nodes(source: Any) -> Iterator[Finding]:
    nodes = source.observer.nodes()
    living = [node for node in nodes if node["alive"]]
    yield _GOOD, "nodes", f"{len(living)} alive", ""
    for node in nodes:
        if not node["alive"] and node["death_reason"] not in ("", "it was stopped") and not node["drain"]:
            about = f"{node['node_id'][:12]} ({node['address']}) died: {node['death_reason']}"
            yield _ODD, "nodes", about, "Its raylet.log says more, if the machine is there."


def _processes(source: Any) -> Iterator[Finding]:
    described = source.observer.describe_processes(limit=100)
    silent = [f"{each['pid']} on {each['node_id'][:12]}" for each in described["silent"]]
    if silent:
        advice = "`ray_rs stack PID` says where a worker is."
        yield _BAD, "processes", f"{', '.join(silent)} did not answer within 2 s", advice
    if described["silent_nodes"]:
        names = ", ".join(node[:12] for node in described["silent_nodes"])
        yield _BAD, "nodes", f"{names} did not answer within 4 s", "Is the network or the machine overloaded?"
    if not silent:
        yield _GOOD, "processes", f"{len(described['processes'])} answer", ""
    ended = [row for row in source.rows("cluster-events") if row.severity == "ERROR"]
    if ended:
        yield _ODD, "processes", f"{len(ended)} ended unexpectedly", f"The last: {ended[-1].message}"


def _demand(source: Any) -> Iterator[Finding]:
    waiting = source.observer.describe_processes(waiting=True, limit=100)["waiting"]
    for row in [row for row in waiting if row["infeasible"]][:10]:
        yield _BAD, "demand", f"{row['name'] or 'something'} can never run", row["why"]
    if not any(row["infeasible"] for row in waiting):
        yield (
            _GOOD,
            "demand",
            f"{len(waiting)} requests wait for room that there is" if waiting else "nothing waits",
            "",
        )


def _store(source: Any) -> Iterator[Finding]:
    stats = source.observer.store_stats()
    capacity, spilled = stats["capacity_bytes"], stats["total_spilled_bytes"]
    text = f"{_size(stats['granted_bytes'])} of {_size(capacity)} given out, {_size(spilled)} written to disk so far"
    if spilled > 10 * capacity:
        yield _ODD, "object store", text, "More memory for it (object_store_memory) would spare the disk."
    else:
        yield _GOOD, "object store", text, ""
