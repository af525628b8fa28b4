"""The pages that people read, and the programs in them.

A block of Python belongs to its page's program: all of them run one after another, as a reader of the page would type
them, after `import ray_rs as ray`. A block of `console` belongs to the page's session at the shell: lines that begin
with `$ ` are commands, all others what they print (`...` stands for anything). A comment before a block says otherwise:

    <!-- file: NAME -->         the block is a file, which commands and programs find in their directory
    <!-- new program -->        here another program begins
    <!-- not run: REASON -->    nothing is run

What a program prints is on the page as a comment behind its `print`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^>]*?) -->\n\s*)?^```(?P<language>[a-z]*)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)
_PRINTED = re.compile(r"^\s*print\(.*\)  # (.+)$", re.M)


class Block(NamedTuple):
    """One fenced block of a page.

    Attributes:
        language: As the fence says; "" when it says nothing.
        rest: What else stands behind the language.
        text: What is in it.
        line: The number of its first line in the page.
        mark: The comment before it, or "".
    """

    language: str
    rest: str
    text: str
    line: int
    mark: str

    @property
    def runs(self) -> bool:
        return not self.mark.startswith("not run: ")

    @property
    def file(self) -> str | None:
        return self.mark.removeprefix("file: ") if self.mark.startswith("file: ") else None


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            found["language"],
            found["rest"].strip(),
            found["text"],
            text.count("\n", 0, found.start("text")) + 1,
            found["mark"] or "",
        )
        for found in _FENCE.finditer(text)
    ]


def files(page: Path) -> dict[str, str]:
    """Content of the page's files by name."""
    return {block.file: block.text for block in blocks(page) if block.file}


def programs(page: Path) -> Iterator[str]:
    """The sources of the page's programs. Their lines have the numbers that they have in the page."""
    mine: list[Block] = []
    for block in blocks(page):
        if block.language != "python" or not block.runs or block.file:
            continue
        if block.mark == "new program" and mine:
            yield _laid_out(mine)
            mine = []
        mine.append(block)
    if mine:
        yield _laid_out(mine)


def _laid_out(program: list[Block]) -> str:
    lines = ["import ray_rs as ray"]
    for block in program:
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


def printed(source: str) -> list[str]:
    """What a program prints, as it says in comments, in order."""
    return _PRINTED.findall(source)


def commands(page: Path) -> list[Block]:
    """The blocks of the page's session at the shell."""
    return [block for block in blocks(page) if block.language == "console" and block.runs]


def session(page: Path) -> tuple[str, list[str]]:
    """The commands of a page as a script, and the lines that they print, in order."""
    script: list[str] = []
    shown: list[str] = []
    for block in commands(page):
        for line in block.text.splitlines():
            if line.startswith("$ "):
                script.append(line[2:])
            elif script and script[-1].endswith("\\"):
                script.append(line)
            elif line.strip():
                shown.append(line)
    return "\n".join(script) + "\n", shown
