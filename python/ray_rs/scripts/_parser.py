"""The parser of the command line: `argparse`'s, which also says what was meant, most likely."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ray_rs._spelling import hint

__all__ = ["Parser", "add_format", "amount", "port"]

_STRUCTURED = ("default", "json", "yaml")


def add_format(parser: argparse.ArgumentParser, formats: Sequence[str] = _STRUCTURED) -> None:
    """The option `--format`, the same for all commands; what it gives is described in docs/command-line.md.

    Args:
        parser: Gets it.
        formats: What there is; the first is the default.
    """
    parser.add_argument("--format", choices=formats, default=formats[0], metavar="FORMAT", help=f"{', '.join(formats)}")


def amount(text: str) -> int:
    """The type of options that say how much or how many.

    Args:
        text: What was typed.

    Returns:
        A number that is not negative.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return number


def port(text: str) -> int:
    """The type of options that name a port.

    Args:
        text: What was typed.

    Returns:
        The number; 0 is any that is free.

    Raises:
        argparse.ArgumentTypeError: There is no such port.
    """
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: those are 0 to 65535")
    return int(text)


class Parser(argparse.ArgumentParser):
    """Of the program and of each of its commands."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Of the innermost command, as its defaults are set last.
        self.set_defaults(parser=self)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse` does it; an option that no command knows is named together with one that is like it.

        Args:
            args: What follows the program's name; those of this process when None.
            namespace: Gets the values; a new one when None.

        Returns:
            The values.
        """
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command: Parser = parsed.parser
            known = [name for action in command._actions for name in action.option_strings]
            hints = [hint(word.partition("=")[0], known) for word in unknown if word.startswith("-")]
            command.error(f"unrecognized arguments: {' '.join(unknown)}.{''.join(hints[:1])}")
        return parsed

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            action, f"invalid choice: {value!r} (choose from {', '.join(known)}).{hint(str(value), known)}"
        )

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2.

        Args:
            message: What is wrong with the arguments.
        """
        end = "" if message.endswith((".", "?")) else "."
        super().error(f"{message}{end} See {self.prog} --help.")
