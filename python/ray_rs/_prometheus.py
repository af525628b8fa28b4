"""A session's metrics as text for Prometheus: the engine's own, and those of applications."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from ray_rs.util.state import _tasks
from ray_rs.util.state._rows import Source

__all__ = ["text_of"]

_KINDS = ("counter", "gauge", "histogram")
_HISTOGRAM_ENDS = ("_bucket", "_sum", "_count")


# Labels that the engine itself gives; an application's of the same name are told apart as Prometheus does it.
_OWN_LABELS = ("SessionName", "WorkerId", "le")


class _Text:
    """Samples by family: those of one family must stand together, below its head."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._families: dict[str, list[str]] = {}

    def sample(
        self, family: str, kind: str, help_text: str, value: float, tags: Iterable[tuple[str, str]] = (), end: str = ""
    ) -> None:
        if family not in self._families:
            escaped = help_text.replace("\\", "\\\\").replace("\n", "\\n")
            self._families[family] = [f"# HELP {family} {escaped}", f"# TYPE {family} {kind}"]
        labels = ",".join(f'{key}="{_escape(text)}"' for key, text in (*tags, ("SessionName", self._session)))
        self._families[family].append(f"{family}{end}{{{labels}}} {_number(value)}")

    def sample_names(self) -> set[str]:
        """The names that are taken: families, and what the samples of histograms are called."""
        taken = set(self._families)
        for family, (_, head, *_samples) in self._families.items():
            if head.endswith(" histogram"):
                taken |= {family + end for end in _HISTOGRAM_ENDS}
        return taken

    def __str__(self) -> str:
        return "\n".join((*(line for lines in self._families.values() for line in lines), ""))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))


def text_of(address: str | None, timeout: float = 30.0) -> str:
    """The metrics of a session.

    Args:
        address: Of the session; this process's, else the newest one, when None.
        timeout: Seconds to wait for an answer.

    Returns:
        Text in Prometheus' format.

    Raises:
        ServerUnavailable: There is no session.
    """
    source = Source(address, timeout)
    text = _Text(os.path.basename(source.directory))
    tasks: Counter[Any] = Counter()
    for name, _, state, count in _tasks.counts(source):
        tasks[state, name] += count
    for (state, name), count in sorted(tasks.items()):
        text.sample("ray_tasks", "gauge", "Tasks by state.", count, (("State", state), ("Name", name)))
    actors: Counter[Any] = Counter((row.state, row.class_name) for row in source.rows("actors"))
    for (state, name), count in sorted(actors.items()):
        text.sample("ray_actors", "gauge", "Actors by state.", count, (("State", state), ("Name", name)))
    groups: Counter[Any] = Counter(row.state for row in source.rows("placement-groups"))
    for state, count in sorted(groups.items()):
        text.sample("ray_placement_groups", "gauge", "Placement groups by state.", count, (("State", state),))
    nodes = source.observer.nodes()
    _resources(text, nodes)
    _leases(text, nodes)
    _store(text, source.observer.store_stats())
    evicted = sum(worker["out_of_memory"] for worker in source.observer.dead_workers())
    text.sample(
        "ray_memory_manager_worker_eviction_total", "counter", "Workers ended since memory was running out.", evicted
    )
    applications = sorted(source.observer.metrics(), key=lambda series: (series["name"], series["kind"]))
    for _, alike in groupby(applications, key=lambda series: (series["name"], series["kind"])):
        _application(text, list(alike))
    return str(text)


def _resources(text: _Text, nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        if not node["alive"]:
            continue
        for name, total in sorted(node["total"].items()):
            free = node["available"].get(name, 0.0)
            for state, amount in (("AVAILABLE", free), ("USED", total - free)):
                tags = (("Name", name), ("State", state), ("NodeAddress", node["address"]))
                text.sample("ray_resources", "gauge", "Logical resources by state.", amount, tags)


def _leases(text: _Text, nodes: list[dict[str, Any]]) -> None:
    help_text = "Lease requests by what became of them: granted here or to others' clients, forwarded, sent back."
    for node in nodes:
        for state, count in node["leases"].items():
            tags = (("State", state.upper()), ("NodeAddress", node["address"]), ("NodeId", node["node_id"]))
            text.sample("ray_scheduler_leases_total", "counter", help_text, count, tags)


def _store(text: _Text, stats: dict[str, int]) -> None:
    for location, key in (("MMAP_SHM", "granted_bytes"), ("SPILLED", "spilled_bytes")):
        tags = (("Location", location),)
        text.sample("ray_object_store_memory", "gauge", "Bytes of the object store by place.", stats[key], tags)
    text.sample(
        "ray_object_store_capacity_bytes", "gauge", "Size of the object store's memory.", stats["capacity_bytes"]
    )
    for family, what in (("ray_spill_manager_objects", "objects"), ("ray_spill_manager_objects_bytes", "bytes")):
        for kind in ("Spilled", "Restored"):
            count = stats[f"total_{kind.lower()}_{what}"]
            help_text = f"{what.capitalize()} written to disk and read back so far."
            # Of Ray's name, which is no counter's.
            text.sample(family, "gauge", help_text, count, (("State", kind),))
    for direction, key in (("SENT", "sent_bytes"), ("FETCHED", "fetched_bytes")):
        help_text = "Bytes of objects sent to other nodes and fetched from them."
        text.sample("ray_object_transfer_bytes_total", "counter", help_text, stats[key], (("Direction", direction),))


def _application(text: _Text, alike: list[dict[str, Any]]) -> None:
    """The series of one metric of an application."""
    kind = _KINDS[alike[0]["kind"]]
    family = _free_family(text, alike[0]["name"], kind)
    for series in alike:
        help_text = series["description"]
        tags = _labels(series["tags"])
        if series["worker_id"]:
            tags.append(("WorkerId", series["worker_id"]))
        if kind != "histogram":
            text.sample(family, kind, help_text, series["value"], tags)
            continue
        total = 0
        for boundary, count in zip((*series["boundaries"], "+Inf"), series["counts"], strict=True):
            total += count
            bound = boundary if isinstance(boundary, str) else repr(boundary)
            text.sample(family, kind, help_text, total, (*tags, ("le", bound)), "_bucket")
        text.sample(family, kind, help_text, series["value"], tags, "_sum")
        text.sample(family, kind, help_text, total, tags, "_count")


def _free_family(text: _Text, name: str, kind: str) -> str:
    """What a metric is called: one name for two kinds of things would make the whole text unreadable."""
    taken = text.sample_names()
    stem = f"ray_{name}"
    while True:
        family = stem if kind != "counter" or stem.endswith("_total") else f"{stem}_total"
        ends = ("", *_HISTOGRAM_ENDS) if kind == "histogram" else ("",)
        if not taken & {family + end for end in ends}:
            return family
        stem = f"{stem.removesuffix('_total')}_{kind}"


def _labels(tags: list[str]) -> list[tuple[str, str]]:
    """Keys and values by turns, as labels: with names that Prometheus takes, each once."""
    labels: dict[str, str] = {}
    for key, value in zip(tags[::2], tags[1::2], strict=True):
        label = re.sub("[^a-zA-Z0-9_]", "_", key) or "_"
        if label[0].isdigit():
            label = f"_{label}"
        if label in _OWN_LABELS or label.startswith("__"):
            label = f"exported_{label}"
        while label in labels:
            label += "_"
        labels[label] = value
    return list(labels.items())
