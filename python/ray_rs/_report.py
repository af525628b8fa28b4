"""A report of what a part of a program did, as one file that needs nothing else."""

from __future__ import annotations

import html
import json
import os
import platform
import time
from types import TracebackType
from typing import Any

__all__ = ["performance_report"]

# Of the chart, in its own units: pixels where there is room.
_WIDTH, _ROW, _LABEL = 1200, 18, 90
_COLUMNS = 600
_MOST_WORKERS = 200
_MOST_NAMES = 200
_COLOURS = (
    "#3b7dd8",
    "#d9822b",
    "#3f9c5a",
    "#a65fc2",
    "#c2486b",
    "#2a9d9d",
    "#8a6d3b",
    "#6f7f93",
    "#7a9a2e",
    "#5b5bd6",
)
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 1300px; margin: 1rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8886; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; border: 1px solid #8886; }
svg text { font-size: 11px; fill: currentColor; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
ul { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; padding: 0; }
i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; }
"""


class performance_report:
    """Writes what the cluster did meanwhile: tasks by name, and who ran what when.

    Args:
        filename: Of the report: HTML, in one file that loads nothing.

    Raises:
        RaySystemError: There is no session.
        OSError: The file can't be written.

    Example:
        >>> with ray.performance_report("report.html"):  # doctest: +SKIP
        ...     ray.get([f.remote() for _ in range(100)])
    """

    def __init__(self, filename: str | os.PathLike[str] = "ray-report.html") -> None:
        self._filename = filename
        self._began = 0.0

    def __enter__(self) -> performance_report:
        from ray_rs import api

        api._require_session()
        # Before anything runs: a directory that is not there is a pity afterwards.
        with open(self._filename, "a"):
            pass
        self._began = time.time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        text = _written(self._began, time.time(), None if kind is None else kind.__name__)
        with open(self._filename, "w", encoding="utf-8") as file:
            file.write(text)


def _written(began: float, ended: float, error: str | None) -> str:
    from ray_rs import __version__, _core
    from ray_rs.util.state import _tasks
    from ray_rs.util.state._rows import Source

    source = Source()
    # Owners that are asked for what has not ended send what has before they answer.
    _tasks.counts(source)
    records = source.answer(lambda: _core.TaskRecords(source.observer))
    from_us, to_us = int(began * 1e6), max(int(ended * 1e6), int(began * 1e6) + 1)
    _, page = records.page(0, len(records))
    rows = [row for row in json.loads(page) if row["end_us"] >= from_us and row["start_us"] < to_us]
    chart = json.loads(records.chart(from_us, to_us, _COLUMNS))
    nodes = source.answer(source.observer.nodes)
    about = {
        "From": _clock(began),
        "To": _clock(ended),
        "Time": _time(ended - began),
        "Tasks that ended": f"{len(rows):,}",
        "Of these failed": f"{sum(1 for row in rows if row['outcome']):,}",
        "Workers": f"{len(chart['rows']):,}",
        "Workers were busy": _busy(rows, len(chart["rows"]), from_us, to_us),
        "Nodes": f"{sum(1 for node in nodes if node['alive'])}",
        "CPUs": f"{sum(node['total'].get('CPU', 0) for node in nodes if node['alive']):g}",
        "ray_rs": __version__,
        "Python": f"{platform.python_version()} on {platform.platform()}",
    }
    if error is not None:
        about["Ended with"] = error
    if records.dropped:
        about["Not on record"] = f"{records.dropped:,} tasks of this session that ended before those that are kept"
    facts = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(text)}</dd>" for name, text in about.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>ray_rs report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Names in it are anybody's text: nothing of the file may run or load.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body><main><h1>What the cluster did</h1><dl>{facts}</dl>"
        f"<h2>By name</h2>{_by_name(rows)}<h2>Who ran what when</h2>{_drawn(chart, ended - began)}"
        "</main></body></html>\n"
    )


def _safe(text: Any) -> str:
    return html.escape(str(text))


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _busy(rows: list[dict[str, Any]], workers: int, from_us: int, to_us: int) -> str:
    ran = sum(min(row["end_us"], to_us) - max(row["start_us"], from_us) for row in rows if row["worker"])
    return f"{100 * ran / (workers * (to_us - from_us)):.0f} % of the time" if workers else "no worker ran anything"


def _by_name(rows: list[dict[str, Any]]) -> str:
    sums: dict[str, list[float]] = {}
    for row in rows:
        entry = sums.setdefault(row["name"], [0, 0, 0.0, 0.0, 0.0])
        ran = (row["end_us"] - row["start_us"]) / 1e6
        entry[0] += 1
        entry[1] += row["outcome"] != 0
        entry[2] += ran
        entry[3] = max(entry[3], ran)
        entry[4] += max(0, row["start_us"] - row["submitted_us"]) / 1e6
    if not sums:
        return "<p>No task ended.</p>"
    ordered = sorted(sums.items(), key=lambda item: item[1][2], reverse=True)
    heads = ("Ended", "Failed", "All time", "Mean", "Longest", "Mean wait")
    lines = ["<tr><th>Name</th>" + "".join(f'<th class="number">{head}</th>' for head in heads) + "</tr>"]
    for name, (count, failed, ran, longest, waited) in ordered[:_MOST_NAMES]:
        times = (_time(ran), _time(ran / count), _time(longest), _time(waited / count))
        cells = (f"{count:,}", f"{failed:,}", *times)
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        lines.append(f"<tr><td>{_safe(name)}</td>{numbers}</tr>")
    more = len(ordered) - _MOST_NAMES
    return f"<table>{''.join(lines)}</table>" + (f"<p>And {more:,} more names.</p>" if more > 0 else "")


def _drawn(chart: dict[str, Any], seconds: float) -> str:
    rows = chart["rows"][:_MOST_WORKERS]
    height = 20 + _ROW * len(rows)
    plot = _WIDTH - _LABEL
    shapes = []
    used = set()
    for number, row in enumerate(rows):
        y = 20 + number * _ROW
        shapes.append(f'<text x="4" y="{y + 12}">{row["pid"]}</text>')
        for column, width, name, busy, failed in row["cells"]:
            tall = max(2.0, (_ROW - 4) * busy / 1000)
            x, wide = _LABEL + column * plot / _COLUMNS, max(1.0, width * plot / _COLUMNS)
            place = f'x="{x:.1f}" width="{wide:.1f}"'
            used.add(name)
            colour = _COLOURS[name % len(_COLOURS)]
            shapes.append(f'<rect {place} y="{y + _ROW - 2 - tall:.1f}" height="{tall:.1f}" fill="{colour}"/>')
            if failed:
                shapes.append(f'<rect {place} y="{y + _ROW - 2}" height="2" fill="#d00000"/>')
    steps = []
    for step in range(9):
        anchor = "end" if step == 8 else "start"
        x = _LABEL + plot * step / 8
        steps.append(f'<text x="{x:.0f}" y="12" text-anchor="{anchor}">{_time(seconds * step / 8)}</text>')
    title = f"{chart['records']:,} tasks on {len(chart['rows']):,} workers"
    legend = "".join(
        f'<li><i style="background:{_COLOURS[name % len(_COLOURS)]}"></i>{_safe(chart["names"][name])}</li>'
        for name in sorted(used)[:50]
    )
    more = len(chart["rows"]) - len(rows)
    note = f"<p>And {more:,} more workers.</p>" if more > 0 else ""
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">{"".join(steps)}{"".join(shapes)}</svg>'
        f"<ul>{legend}</ul>{note}<p>A row for each worker; the higher, the busier. A red line: something failed.</p>"
    )
