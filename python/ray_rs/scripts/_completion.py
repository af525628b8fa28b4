"""`completion`: what makes a shell complete commands, options and their values.

The script is made of the parser, and knows all words itself: completing starts no Python.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

__all__ = ["SHELLS", "Command", "add", "commands_of", "script"]

SHELLS = ("bash", "zsh", "fish")


@dataclass
class Option:
    """An option of a command.

    Attributes:
        names: Such as "-v" and "--verbose".
        help: One line; empty: it says nothing.
        takes_value: A word follows it.
        choices: What that may be; empty: anything.
    """

    names: list[str]
    help: str
    takes_value: bool
    choices: list[str]


@dataclass
class Command:
    """A command, or the program itself.

    Attributes:
        path: Words that lead there; empty for the program.
        commands: Those below it, with a line of help each.
        options: Its options.
        choices: Words that its arguments may be.
    """

    path: tuple[str, ...]
    commands: dict[str, str] = field(default_factory=dict)
    options: list[Option] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser(
        "completion",
        help="print what makes a shell complete ray_rs's words",
        description="Prints a script for a shell. bash: ray_rs completion bash > "
        "~/.local/share/bash-completion/completions/ray_rs. zsh: ray_rs completion zsh > _ray_rs, in a directory of "
        "$fpath. fish: ray_rs completion fish > ~/.config/fish/completions/ray_rs.fish.",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    from ray_rs.scripts import parser

    print(script(arguments.shell, list(commands_of(parser()))), end="")
    return 0


def commands_of(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """All commands of a parser, outer ones first.

    Args:
        parser: Of the program.
        path: Where it stands among the commands.

    Yields:
        The commands.
    """
    command = Command(path)
    below: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {str(each.dest): each.help or "" for each in action._choices_actions}
            names: dict[int, str] = {}
            for name, child in action.choices.items():
                # An alias is as good as the name that it stands for.
                first = names.setdefault(id(child), name)
                command.commands[name] = helps.get(first, "")
                below += commands_of(child, (*path, name))
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            choices = [str(choice) for choice in action.choices or ()]
            names_of = list(action.option_strings)
            command.options.append(Option(names_of, _line(action.help), action.nargs != 0, choices))
        else:
            command.choices += [str(choice) for choice in action.choices or ()]
    yield command
    yield from below


def _line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def script(shell: str, commands: list[Command]) -> str:
    """The script of a shell.

    Args:
        shell: One of `SHELLS`.
        commands: Of the program.

    Returns:
        The text.
    """
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _where(command: Command) -> str:
    return "/".join(command.path)


# ---------------------------------------------------------------------------------------------------------------- bash


def _cases(commands: list[Command], words: str) -> Iterator[str]:
    """Branches that set what follows an option with choices, else commands or choices, and options."""
    for command in commands:
        for option in command.options:
            if option.takes_value:
                patterns = "|".join(shlex.quote(f"{_where(command)}:{name}") for name in option.names)
                yield f"        {patterns}) {words}={shlex.quote(' '.join(option.choices))}; return 0 ;;"


def _bash(commands: list[Command]) -> str:
    known = "|".join(shlex.quote(_where(command)) for command in commands if command.path)
    values = "\n".join(_cases(commands, "__ray_rs_words"))
    words = []
    for command in commands:
        options = " ".join(name for option in command.options for name in option.names)
        rest = " ".join([*command.commands, *command.choices])
        words.append(
            f"        {shlex.quote(_where(command))}) __ray_rs_options={shlex.quote(options)}; "
            f"__ray_rs_words={shlex.quote(rest)} ;;"
        )
    listed = "\n".join(words)
    return f"""# Completes ray_rs in bash; made by `ray_rs completion bash`.
__ray_rs_value() {{
    case "$1" in
{values}
    esac
    return 1
}}

_ray_rs() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" at="" word next
    local __ray_rs_words="" __ray_rs_options=""
    # bash takes --name=value for three words.
    [[ $current == = ]] && current=""
    [[ $before == = ]] && before="${{COMP_WORDS[COMP_CWORD-2]}}"
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        next="${{at:+$at/}}$word"
        case "$next" in
        {known}) at="$next" ;;
        esac
    done
    if __ray_rs_value "$at:$before"; then
        __ray_rs_options=""
    else
        case "$at" in
{listed}
        esac
    fi
    [[ $current == -* ]] && __ray_rs_words="$__ray_rs_options"
    mapfile -t COMPREPLY < <(compgen -W "$__ray_rs_words" -- "$current")
}}

complete -o default -F _ray_rs ray_rs
"""


# ----------------------------------------------------------------------------------------------------------------- zsh


def _described(pairs: Iterable[tuple[str, str]]) -> str:
    """Words with a line of help each, as zsh's `_describe` takes them."""
    cells = []
    for name, text in pairs:
        word = name.replace(":", "\\:")
        cells.append(shlex.quote(f"{word}:{text}" if text else word))
    return " ".join(cells)


def _zsh(commands: list[Command]) -> str:
    known = "|".join(shlex.quote(_where(command)) for command in commands if command.path)
    values = "\n".join(
        f"        {'|'.join(shlex.quote(f'{_where(command)}:{name}') for name in option.names)}) "
        f"found=({_described((choice, '') for choice in option.choices)}); value=1 ;;"
        for command in commands
        for option in command.options
        if option.takes_value
    )
    words = "\n".join(
        f"        {shlex.quote(_where(command))})\n"
        f"            options=({_described((name, each.help) for each in command.options for name in each.names)})\n"
        f"            found=({_described(chain(command.commands.items(), ((one, '') for one in command.choices)))}) ;;"
        for command in commands
    )
    return f"""#compdef ray_rs
# Completes ray_rs in zsh; made by `ray_rs completion zsh`.
_ray_rs() {{
    local at="" word next value=0
    local -a found options
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        next="${{at:+$at/}}$word"
        case "$next" in
        {known}) at="$next" ;;
        esac
    done
    case "$at:${{words[CURRENT-1]}}" in
{values}
    esac
    if (( ! value )); then
        case "$at" in
{words}
        esac
        [[ ${{words[CURRENT]}} == -* ]] && found=("${{options[@]}}")
    fi
    if (( ${{#found}} )); then
        _describe 'ray_rs' found
    else
        _files
    fi
}}

if [[ $funcstack[1] == _ray_rs ]]; then
    _ray_rs "$@"
else
    compdef _ray_rs ray_rs
fi
"""


# ---------------------------------------------------------------------------------------------------------------- fish


def _fish(commands: list[Command]) -> str:
    lines = [
        "# Completes ray_rs in fish; made by `ray_rs completion fish`.",
        "function __ray_rs_at --description 'Whether the words so far lead to this command, and no further'",
        "    set -l known " + " ".join(shlex.quote(_where(command)) for command in commands if command.path),
        "    set -l at ''",
        "    for word in (commandline -opc)[2..]",
        '        set -l next (string trim --left --chars=/ -- "$at/$word")',
        "        contains -- $next $known; and set at $next",
        "    end",
        '    test "$at" = "$argv[1]"',
        "end",
    ]
    for command in commands:
        here = f"complete -c ray_rs -n \"__ray_rs_at '{_where(command)}'\""
        for name, text in command.commands.items():
            lines.append(f"{here} -f -a {_fish_word(name)} -d {_fish_word(text)}")
        if command.choices:
            lines.append(f"{here} -f -a {_fish_word(' '.join(command.choices))}")
        for option in command.options:
            long = [f"-l {name[2:]}" for name in option.names if name.startswith("--")]
            short = [f"-s {name[1:]}" for name in option.names if len(name) == 2]
            old = [f"-o {name[1:]}" for name in option.names if not name.startswith("--") and len(name) > 2]
            value = f"-x -a {_fish_word(' '.join(option.choices))}" if option.choices else "-r" * option.takes_value
            about = f"-d {_fish_word(option.help)}" if option.help else ""
            lines.append(" ".join(filter(None, [here, *long, *short, *old, value, about])))
    return "\n".join(lines) + "\n"


def _fish_word(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
