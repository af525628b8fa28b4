"""The command line: `ray_rs status`, `ray_rs list tasks` and so on; also `python -m ray_rs.scripts`.

Most commands ask a session as the state API does: they start nothing, and are no job of it. A module of `_MODULES` adds
commands by a function `add(commands)`, which gets what `argparse` calls subparsers; each sets `run`, a function that
gets the parsed arguments and returns the exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

__all__ = ["main"]

_MODULES = (
    "_nodes",
    "_symmetric",
    "_drain",
    "_state",
    "_status",
    "_dashboard",
    "_memory",
    "_why",
    "_stack",
    "_doctor",
    "_ports",
    "_top",
    "_logs",
    "_job",
    "_debug",
    "_tools",
    "_kill",
    "_microbenchmark",
    "_completion",
)


def parser() -> argparse.ArgumentParser:
    """Makes the parser of all commands.

    Returns:
        The parser.
    """
    from ray_rs import __version__
    from ray_rs.scripts._parser import Parser

    top = Parser(prog="ray_rs", description="Starts nodes of ray_rs on this machine, and looks at what runs there.")
    top.add_argument("--version", action="version", version=f"ray_rs, version {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in _MODULES:
        import_module(f"ray_rs.scripts.{name}").add(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: What follows the program's name; those of this process when None.

    Returns:
        Exit status: 0 when it worked, 1 when it did not, 2 when the arguments make no sense, 130 when it was
        interrupted. docs/command-line.md says what "it worked" means for each command.
    """
    from ray_rs.scripts._absent import NEEDLESS, why_absent
    from ray_rs.util.state.exception import RayStateApiException

    words = sys.argv[1:] if arguments is None else arguments
    if reason := why_absent(words):
        print(f"Error: {reason}", file=sys.stderr)
        return 2
    if words and words[0] in NEEDLESS:
        print(NEEDLESS[words[0]])
        return 0
    parsed = parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
        return status
    except (RayStateApiException, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError):
            return _nobody_reads()
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _nobody_reads() -> int:
    """The reader of a pipe has gone, as `head` does: no error, and nothing may be flushed at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
