"""Flame graphs: where a worker's threads spend their time, by looking at their stacks again and again.

A sample is what `_stacks.dump` says, so the worker takes no part, and the numbers are shares of samples: a thread that
waits is as wide as one that computes.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from html import escape

from ray_rs import _stacks

__all__ = ["Frame", "rows", "sampled", "stacks_of", "svg"]

_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-f]+)")
_CALL = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')
# Between two looks; a look itself takes about a millisecond.
_PAUSE_S = 0.005
_WIDTH, _ROW, _MARGIN = 1200, 17, 10
# Narrower frames are left out, and names that do not fit are not written.
_NARROWEST, _LETTER = 0.3, 6.6


@dataclass
class Frame:
    """A function as called by those below it.

    Attributes:
        name: With its file.
        samples: How often it was seen there.
        calls: What it called, by name.
    """

    name: str
    samples: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)

    def add(self, stack: list[str]) -> None:
        """Counts one sample.

        Args:
            stack: What is called from here, the outermost first.
        """
        frame = self
        frame.samples += 1
        for name in stack:
            frame = frame.calls.setdefault(name, Frame(name))
            frame.samples += 1

    def depth(self) -> int:
        """How many frames lie above each other, this one included."""
        return 1 + max((call.depth() for call in self.calls.values()), default=0)


def stacks_of(text: str) -> list[list[str]]:
    """The stacks in a dump.

    Args:
        text: As of `_stacks.dump`.

    Returns:
        Of each thread its frames, the outermost first; the first is the thread.
    """
    stacks: list[list[str]] = []
    for line in text.splitlines():
        if thread := _THREAD.match(line):
            stacks.append([f"thread {thread[1]}"])
        elif stacks and (call := _CALL.match(line)):
            # The most recent call comes first.
            stacks[-1].insert(1, f"{call[3]} ({call[1].rpartition('/')[2]})")
    return [stack for stack in stacks if len(stack) > 1]


def sampled(pid: int, seconds: float) -> Frame:
    """Looks at a worker of this machine for a while.

    Args:
        pid: Its process id.
        seconds: For how long.

    Returns:
        All threads, below each other what they call.

    Raises:
        StackError: It is no worker, has ended, or does not answer.
    """
    root = Frame(f"process {pid}")
    deadline = time.monotonic() + seconds
    while True:
        for stack in stacks_of(_stacks.dump(pid)):
            root.add(stack)
        if time.monotonic() >= deadline:
            return root
        time.sleep(_PAUSE_S)


def rows(pid: int, seconds: float) -> list[tuple[int, int, int, str]]:
    """Looks at a worker of this machine for a while.

    Args:
        pid: Its process id.
        seconds: For how long.

    Returns:
        Of each function as called by those below it: how many lie below it, how many samples lie to its left, its own
        samples, and its name. Whoever calls comes before what it calls; the first is the process.

    Raises:
        StackError: It is no worker, has ended, or does not answer.
    """
    return _rows_of(sampled(pid, seconds))


def _rows_of(root: Frame) -> list[tuple[int, int, int, str]]:
    found = []
    # What comes first is taken last.
    todo = [(root, 0, 0)]
    while todo:
        frame, depth, left = todo.pop()
        found.append((depth, left, frame.samples, frame.name))
        calls = []
        for call in sorted(frame.calls.values(), key=lambda call: call.name):
            calls.append((call, depth + 1, left))
            left += call.samples
        todo += reversed(calls)
    return found


def svg(root: Frame, title: str) -> str:
    """A picture of it, which needs nothing else: the outermost calls at the bottom, hints say shares.

    Args:
        root: All samples.
        title: What it shows.

    Returns:
        The text of an SVG file.
    """
    height = _ROW * root.depth() + 4 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="monospace" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_MARGIN}" y="{2 * _MARGIN}">{escape(title)}: {root.samples} samples</text>',
    ]
    _draw(parts, root, _MARGIN, (_WIDTH - 2 * _MARGIN) / max(root.samples, 1), height - _MARGIN - _ROW, root.samples)
    return "\n".join([*parts, "</svg>", ""])


def _draw(parts: list[str], frame: Frame, x: float, scale: float, y: int, total: int) -> None:
    width = frame.samples * scale
    if width < _NARROWEST:
        return
    share = 100 * frame.samples / max(total, 1)
    letters = int(width / _LETTER)
    shown = frame.name if len(frame.name) <= letters else f"{frame.name[: letters - 2]}.." if letters > 4 else ""
    parts.append(
        f"<g><title>{escape(frame.name)}: {share:.1f}%, {frame.samples} samples</title>"
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_ROW - 1}" rx="2" fill="{_colour(frame.name)}"/>'
        f'<text x="{x + 3:.2f}" y="{y + 12}">{escape(shown)}</text></g>'
    )
    for call in sorted(frame.calls.values(), key=lambda call: call.name):
        _draw(parts, call, x, scale, y - _ROW, total)
        x += call.samples * scale


def _colour(name: str) -> str:
    """The same for the same function, light enough for black letters."""
    import zlib

    number = zlib.crc32(name.encode())
    return f"rgb({225 + number % 30},{130 + number // 30 % 100},{60 + number // 3000 % 60})"
