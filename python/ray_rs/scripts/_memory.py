"""`memory`: who holds which object, and what the object store has room for."""

from __future__ import annotations

import argparse
from typing import Any

from ray_rs._memory_report import GROUPS, ORDERS, UNITS, memory_summary, references
from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format
from ray_rs.scripts._state import add_common
from ray_rs.util.state._rows import Source

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("memory", help="references to objects, what holds them, and sums of the object store")
    parser.add_argument("--group-by", choices=tuple(GROUPS), default="NODE_ADDRESS", type=str.upper)
    parser.add_argument("--sort-by", choices=tuple(ORDERS), default="OBJECT_SIZE", type=str.upper)
    parser.add_argument("--units", choices=tuple(UNITS), default="B", type=str.upper)
    parser.add_argument("--stats-only", action="store_true", help="only the sums")
    parser.add_argument("-n", "--num-entries", "--num-entries-per-group", type=int, help="most rows of a group")
    add_format(parser)
    parser.add_argument("--no-format", action="store_true", help="a tab between columns")
    add_common(parser)
    parser.set_defaults(run=_memory)


def _memory(arguments: argparse.Namespace) -> int:
    source = Source(arguments.address, arguments.timeout)
    if arguments.format != "default":
        told = source.answer(lambda: references(source, arguments.sort_by, stats_only=arguments.stats_only))
        print(_output.structured(told, arguments.format))
        return 0
    text = source.answer(
        lambda: memory_summary(
            source,
            arguments.group_by,
            arguments.sort_by,
            arguments.units,
            arguments.stats_only,
            arguments.num_entries,
            aligned=not arguments.no_format,
        )
    )
    print(text)
    return 0
