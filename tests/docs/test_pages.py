"""What the documentation shows works: its programs run and print what it says, and its commands do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pages
import pytest
from under_test import ray_rs_only

pytestmark = [
    ray_rs_only("runs the documentation of ray_rs"),
    pytest.mark.usefixtures("no_cluster"),
    pytest.mark.timeout(180),
]

# One run of a page's program, or of its commands, in seconds.
LIMIT = 120

WITH_PROGRAMS = [
    pytest.param(source, id=f"{pages.title(page)}-{number}")
    for page in pages.PAGES
    for number, source in enumerate(pages.programs(page), 1)
]
WITH_COMMANDS = [pytest.param(page, id=pages.title(page)) for page in pages.PAGES if pages.commands(page)]

# Any port that is free, whatever the page says: other clusters may run on the machine.
RAY_RS = f"""#!/bin/sh
case "$*" in "start --head"*) set -- "$@" --port=0 --dashboard-port=0 ;; esac
exec {sys.executable} -m ray_rs.scripts "$@"
"""


def run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    tools = folder / ".bin"
    tools.mkdir(exist_ok=True)
    (tools / "ray_rs").write_text(RAY_RS)
    (tools / "ray_rs").chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    # Workers' lines must not come between those that a page shows.
    environment = {**os.environ, "PATH": path, "RAY_LOG_TO_DRIVER": "0", "NO_COLOR": "1"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def missing_from(expected: list[str], output: str) -> list[str]:
    """The expected lines that do not come in the output, in this order."""
    lines = iter(output.splitlines())
    missing = []
    for wanted in expected:
        pattern = re.compile(".*".join(map(re.escape, wanted.split("..."))))
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            missing.append(wanted)
            break
    return missing


def write_files(page: Path, folder: Path) -> None:
    for name, text in pages.files(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("source", WITH_PROGRAMS)
def test_program(source, tmp_path, request):
    name = request.node.callspec.id.rpartition("-")[0]
    write_files(pages.ROOT / name, tmp_path)
    program = tmp_path / f"{Path(name).name}.py"
    program.write_text(source)
    done = run([sys.executable, program.name], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert missing_from(pages.printed(source), done.stdout) == [], done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands(page, tmp_path):
    write_files(page, tmp_path)
    script, shown = pages.session(page)
    # What the commands have started ends with them, also when one of them fails.
    whole = f"set -eo pipefail\ntrap 'ray_rs stop >/dev/null 2>&1' EXIT\n{script}"
    done = run(["bash", "-c", whole], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert missing_from(shown, done.stdout) == [], done.stdout + done.stderr


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.title)
def test_every_block_is_marked_as_it_must_be(page):
    for block in pages.blocks(page):
        where = f"{pages.title(page)}:{block.line}"
        assert not block.rest, f"{where}: a fence has a language and nothing else"
        assert re.fullmatch(r"|new program|file: [\w./-]+|not run: .{10,}", block.mark), f"{where}: {block.mark}"
        if block.language == "python":
            compile(block.text, where, "exec")
        if block.language == "console" and block.runs:
            assert block.text.startswith("$ "), f"{where}: a session begins with a command"


def verbs_of(parser: Any) -> dict[str, Any]:
    """The parsers of a program's commands, by name."""
    (verbs,) = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    return verbs


def test_the_page_of_commands_has_all_of_them():
    from ray_rs.scripts import parser

    text = (pages.DOCS / "looking.md").read_text().partition("## At the shell")[2].partition("\n## ")[0]
    described = set(re.findall(r"`ray_rs ([\w-]+)`", text))
    # Ray's name for another.
    assert described == set(verbs_of(parser())) - {"drain-node"}


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.title)
def test_commands_and_their_options_exist(page):
    """Also in blocks that are not run, and in running text."""
    from ray_rs.scripts import parser

    verbs = verbs_of(parser())
    shell = "".join(block.text for block in pages.blocks(page) if block.language in ("", "console"))
    written = re.findall(r"^(?:\$ )?ray_rs (.*)$", shell, re.M) + re.findall(r"`ray_rs ([^`]+)`", page.read_text())
    for command in written:
        words = command.partition("#")[0].partition(" -- ")[0].split()
        verb = words[0]
        if verb.startswith("-") or not verb.isascii() or verb in ("...", "…"):
            continue
        assert verb in verbs, f"{pages.title(page)}: ray_rs {command}"
        known = verbs[verb].format_help()
        inner = [action.choices for action in verbs[verb]._actions if isinstance(action.choices, dict)]
        if inner:
            assert len(words) < 2 or words[1] in inner[0] or words[1].startswith("-"), f"ray_rs {command}"
            known += "".join(each.format_help() for each in inner[0].values())
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]+", command.partition("#")[0].partition(" -- ")[0]):
            assert re.search(rf"{re.escape(option)}\b", known), f"{pages.title(page)}: {option} of ray_rs {command}"
