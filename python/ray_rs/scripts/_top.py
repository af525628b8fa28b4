"""`top`: what goes on, in the terminal, again and again."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from functools import partial
from typing import Any

from ray_rs.scripts._parser import add_format, amount
from ray_rs.scripts._state import add_common
from ray_rs.util.state import _tasks
from ray_rs.util.state._rows import Source

__all__ = ["add"]

_CLEAR = "\x1b[H\x1b[2J"
# The log of tasks is asked for with every picture, so pictures of many tasks are rarer.
_SHARE = 30


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("top", help="show nodes, tasks and workers, live; Ctrl-C ends it")
    parser.add_argument("-d", "--delay", type=float, default=2.0, help="seconds between two pictures (default: 2)")
    parser.add_argument("-n", "--iterations", type=amount, help="end after so many pictures")
    parser.add_argument("--once", dest="iterations", action="store_const", const=1, help="the same as -n 1")
    add_format(parser, ("default", "json"))
    add_common(parser)
    parser.set_defaults(run=_top)


def _top(arguments: argparse.Namespace) -> int:
    if not 0.1 <= arguments.delay <= 3600:
        raise ValueError(f"--delay must be between 0.1 and 3600 seconds, got {arguments.delay}")
    left = arguments.iterations
    before: dict[str, int] = {}
    looked_at = time.monotonic()
    while left is None or left > 0:
        began = time.monotonic()
        source = Source(arguments.address, arguments.timeout)
        picture, counts = source.answer(partial(_picture, source, before, began - looked_at))
        before, looked_at = counts, began
        width, height = shutil.get_terminal_size()
        lines = _lines(picture) if arguments.format == "default" else [json.dumps(picture)]
        if arguments.format == "default" and sys.stdout.isatty():
            shown = [line[: width - 1] for line in lines[: height - 1]]
            print(_CLEAR + "\n".join(shown), end="", flush=True)
        else:
            print("\n".join(lines), flush=True)
        left = None if left is None else left - 1
        if left != 0:
            time.sleep(max(arguments.delay, _SHARE * (time.monotonic() - began)))
    if arguments.format == "default" and sys.stdout.isatty():
        print()
    return 0


def _picture(source: Source, before: dict[str, int], seconds: float) -> tuple[dict[str, Any], dict[str, int]]:
    """What goes on, and how many tasks of each name have ended."""
    from ray_rs import _core

    processes = source.observer.describe_processes(limit=1)["processes"]
    records = _core.TaskRecords(source.observer)
    nodes = [node for node in source.observer.nodes() if node["alive"]]
    stats = source.observer.store_stats()
    rows: dict[str, dict[str, float]] = {}
    for sums in json.loads(records.by_name()):
        row = rows.setdefault(sums["name"], _nothing())
        for column in ("ran", "run_us"):
            row[column] += sums[column]
    for name, _, state, count in _tasks.counts(source):
        row = rows.setdefault(name, _nothing())
        word = {"FINISHED": "finished", "FAILED": "failed"}.get(state)
        row[word or ("running" if state.startswith("RUNNING") else "waiting")] += count
    counts = {name: int(row["finished"] + row["failed"]) for name, row in rows.items()}
    tasks: list[dict[str, Any]] = []
    for name, row in rows.items():
        # Of what was not known the last time nothing is known of its rate either.
        rate = max(0, counts[name] - before[name]) / max(seconds, 1e-6) if name in before else 0.0
        mean = row["run_us"] / row["ran"] / 1000 if row["ran"] else 0.0
        numbers = {word: int(row[word]) for word in ("running", "waiting", "finished", "failed")}
        tasks.append({"name": name, "ended_per_s": rate, **numbers, "mean_ms": mean})
    tasks.sort(key=lambda row: (-row["running"], -row["ended_per_s"], row["name"]))
    picture = {
        "time_ms": int(time.time() * 1000),
        "processes": len(processes),
        "store": {"used_bytes": stats["granted_bytes"], "capacity_bytes": stats["capacity_bytes"]},
        "nodes": [{name: node[name] for name in ("node_id", "total", "available")} for node in nodes],
        "tasks": tasks,
    }
    return picture, counts


def _lines(picture: dict[str, Any]) -> list[str]:
    nodes, store = picture["nodes"], picture["store"]
    lines = [
        f"{time.strftime('%H:%M:%S')}  {len(nodes)} nodes, {picture['processes']} processes, "
        f"store {store['used_bytes'] / 2**30:.1f} of {store['capacity_bytes'] / 2**30:.1f} GiB",
        *(f"  {node['node_id'][:12]}  {_used(node)}" for node in nodes[:8]),
        "",
        f"{'ENDED/S':>9} {'RUN':>6} {'WAIT':>7} {'FINISHED':>9} {'FAILED':>7} {'MEAN MS':>9}  NAME",
    ]
    for row in picture["tasks"]:
        lines.append(
            f"{row['ended_per_s']:9.1f} {row['running']:6d} {row['waiting']:7d} {row['finished']:9d} "
            f"{row['failed']:7d} {row['mean_ms']:9.2f}  {row['name'] or '(no name)'}"
        )
    return lines


def _nothing() -> dict[str, float]:
    return dict.fromkeys(("finished", "failed", "ran", "run_us", "running", "waiting"), 0.0)


def _used(node: dict[str, Any]) -> str:
    names = [name for name in ("CPU", "GPU", "memory") if node["total"].get(name)]
    words = []
    for name in names:
        total = node["total"][name]
        used = total - node["available"].get(name, 0)
        unit, end = (2**30, " GiB") if name == "memory" else (1, "")
        words.append(f"{name} {used / unit:.4g} of {total / unit:.4g}{end}")
    return ", ".join(words)
