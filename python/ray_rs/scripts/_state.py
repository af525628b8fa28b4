"""`list`, `get` and `summary`."""

from __future__ import annotations

import argparse
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format
from ray_rs.util.state import api
from ray_rs.util.state._rows import KINDS

__all__ = ["add", "add_common"]

_IDS = {
    "actors": "actor_id",
    "jobs": "job_id",
    "nodes": "node_id",
    "objects": "object_id",
    "placement-groups": "placement_group_id",
    "tasks": "task_id",
    "workers": "worker_id",
}
_SUMMARIES = {
    "actors": (api.summarize_actors, ("class_name", "state_counts")),
    "objects": (
        api.summarize_objects,
        ("total_objects", "total_size_mb", "total_num_workers", "task_state_counts", "ref_type_counts"),
    ),
    "tasks": (api.summarize_tasks, ("func_or_class_name", "type", "state_counts")),
}


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of all commands that ask a session.

    Args:
        parser: Gets them.
    """
    parser.add_argument(
        "--address", help="which session: host:port or its directory (default: RAY_ADDRESS, the newest)"
    )
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for an answer (default: 30)")


def add(commands: Any) -> None:
    """Adds the commands.

    Args:
        commands: What `argparse` calls subparsers.
    """
    listing = commands.add_parser("list", help="list actors, tasks, nodes, ...")
    listing.add_argument("resource", choices=sorted(KINDS), metavar="RESOURCE", help=", ".join(sorted(KINDS)))
    listing.add_argument(
        "-f", "--filter", action="append", default=[], metavar="K=V", help="k=v or k!=v; all must hold"
    )
    listing.add_argument("--limit", type=int, default=100)
    listing.add_argument("--detail", action="store_true", help="all columns")
    add_format(listing, _output.FORMATS)
    add_common(listing)
    listing.set_defaults(run=_list)

    getting = commands.add_parser("get", help="show one actor, task, node, ...")
    getting.add_argument("resource", choices=sorted(_IDS), metavar="RESOURCE", help=", ".join(sorted(_IDS)))
    getting.add_argument("id")
    add_format(getting)
    add_common(getting)
    getting.set_defaults(run=_get)

    summing = commands.add_parser("summary", help="count actors, objects or tasks")
    summing.add_argument("resource", choices=sorted(_SUMMARIES), metavar="RESOURCE", help=", ".join(sorted(_SUMMARIES)))
    add_format(summing)
    add_common(summing)
    summing.set_defaults(run=_summary)


def _filter(text: str) -> tuple[str, str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip("!"):
        raise ValueError(f"A filter is k=v or k!=v, not {text!r}")
    predicate = "!=" if key.endswith("!") else "="
    return key.removesuffix("!").strip(), predicate, value.strip()


def _list(arguments: argparse.Namespace) -> int:
    import sys

    kind = arguments.resource
    rows, total, warning = api.list_rows(
        kind,
        arguments.address,
        [_filter(text) for text in arguments.filter],
        arguments.limit,
        arguments.timeout,
        arguments.detail,
    )
    columns = KINDS[kind][0].list_columns(detail=arguments.detail)
    values = [{column: row[column] for column in columns} for row in rows]
    format = arguments.format
    if format == "default":
        format = "yaml" if arguments.detail else "table"
    if warning:
        print(f"Warning: {warning}", file=sys.stderr)
    if format != "table":
        print(_output.structured(values, format))
        return 0
    print(f"\n======== List: {_output.now()} ========")
    print(f"Stats:\n------------------------------\nTotal: {total}")
    if total > len(rows):
        print(f"Shown: {len(rows)} (see --limit)")
    print("\nTable:\n------------------------------")
    print(_output.table(columns, [list(row.values()) for row in values]) if values else "No resource in the cluster")
    return 0


def _get(arguments: argparse.Namespace) -> int:
    import sys

    key = _IDS[arguments.resource]
    rows, _, _ = api.list_rows(
        arguments.resource, arguments.address, [(key, "=", arguments.id)], api.MAX_LIMIT, arguments.timeout, detail=True
    )
    if not rows:
        print(f"Error: there is no {key.removesuffix('_id')} with id {arguments.id}.", file=sys.stderr)
        return 1
    values = [row.asdict() for row in rows]
    format = "yaml" if arguments.format == "default" else arguments.format
    print(_output.structured(values if len(values) > 1 else values[0], format))
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    summarize, columns = _SUMMARIES[arguments.resource]
    summary = summarize(arguments.address, arguments.timeout)["cluster"]
    if arguments.format != "default":
        print(_output.structured(summary, arguments.format))
        return 0
    print(f"\n======== {arguments.resource.capitalize()} Summary: {_output.now()} ========")
    print("Stats:\n------------------------------------")
    for name, value in summary.items():
        if name not in ("summary", "summary_by"):
            print(f"{name}: {value}")
    by = summary["summary_by"]
    print(f"\nTable (by {'name' if arguments.resource == 'tasks' else by}):\n------------------------------------")
    # Groups are named by a column of theirs, or by their key.
    heads = columns if columns[-1] == "state_counts" else (by, *columns)
    rows = [[_counts({by: name, **entry}[head]) for head in heads] for name, entry in summary["summary"].items()]
    print(_output.table(heads, rows))
    return 0


def _counts(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{state}: {number}" for state, number in value.items())
    return f"{value:.3f}" if isinstance(value, float) else value
