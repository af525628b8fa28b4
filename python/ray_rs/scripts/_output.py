"""How rows are printed."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["FORMATS", "now", "say", "structured", "table"]

FORMATS = ("default", "json", "yaml", "table")


def now() -> str:
    """The time, as heads of listings show it.

    Returns:
        Date and time.
    """
    return str(datetime.datetime.now())


def say(text: str, value: Any, format: str) -> None:
    """Prints what a command has to say, at once.

    Args:
        text: For people.
        value: The same for programs.
        format: "default", "json" or "yaml".
    """
    print(text if format == "default" else structured(value, format), flush=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns side by side, numbered; below each other where the terminal is too narrow for that.

    Args:
        heads: Names of the columns.
        rows: Their values.

    Returns:
        Lines.
    """
    cells = [["", *(head.upper() for head in heads)]]
    cells += [[str(number), *map(_cell, row)] for number, row in enumerate(rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    if sys.stdout.isatty() and max(map(len, lines)) > shutil.get_terminal_size().columns:
        lines = [
            f"{name}: {value}" if name else f"--- {value}"
            for row in cells[1:]
            for name, value in zip(cells[0], row, strict=True)
        ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return "" if value is None else str(value)


def structured(value: Any, format: str) -> str:
    """A value as JSON or YAML.

    Args:
        value: Dictionaries, lists and plain values.
        format: "json" or "yaml".

    Returns:
        The text.
    """
    return json.dumps(value, indent=2) if format == "json" else "\n".join(["---", *_yaml(value), "..."])


def _yaml(value: Any, indent: str = "") -> list[str]:
    """YAML of plain data. Text is written as JSON, which YAML contains, where it could be read as something else."""
    if isinstance(value, dict) and value:
        lines = []
        for key, each in value.items():
            below = _yaml(each, indent + "  ") if isinstance(each, (dict, list)) and each else None
            head = f"{indent}{_scalar(key)}:"
            lines += [head, *below] if below else [f"{head} {_scalar(each)}"]
        return lines
    if isinstance(value, list) and value:
        lines = []
        for each in value:
            inner = _yaml(each, indent + "  ")
            lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]]
        return lines
    return [f"{indent}{_scalar(value)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and value.replace("_", "").isalpha() and value.lower() not in _WORDS:
        return value
    return json.dumps(value)


# What YAML reads as no text.
_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf")
