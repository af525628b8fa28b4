"""Progress bars at the driver: those of this process, and those that workers report in marked lines of their output.

A terminal shows a line for each bar below everything else that is printed, a notebook's cell one line for all of them,
and a file or pipe gets a line now and then. `experimental.tqdm_ray` is what users see of this.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from ray_rs import _logs

__all__ = ["Display", "display", "take"]

_BLOCKS = " ▏▎▍▌▋▊▉█"
_WIDTH = 24
_REDRAW_SECONDS = 0.1
# Where nothing can be drawn over.
_REPEAT_SECONDS = 10.0


class _Bar:
    """One bar: what was reported of it, and since when it is known."""

    def __init__(self, state: dict[str, Any], prefix: str, now: float) -> None:
        self.state = state
        self.prefix = prefix
        self.began = now

    def text(self, now: float) -> str:
        done, total = self.state["n"], self.state["total"]
        parts = [self.prefix + self.state["desc"]] if self.prefix or self.state["desc"] else []
        if total:
            share = min(max(done / total, 0.0), 1.0)
            parts.append(f"{int(share * 100):3d} % {_drawn(share)} {done}/{total}")
        else:
            parts.append(f"{done} {self.state['unit']}")
        elapsed = now - self.began
        if elapsed > 0 and done > 0:
            rate = done / elapsed
            parts.append(f"{rate:.1f} {self.state['unit']}/s")
            if total and not self.state["closed"]:
                parts.append(f"{_duration((total - done) / rate)} left")
        if self.state["closed"]:
            parts.append(f"in {_duration(elapsed)}")
        return "  ".join(parts)


def _drawn(share: float) -> str:
    eighths = int(share * _WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(_WIDTH, "·")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Display:
    """All bars, and what of them is on the screen."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bars: dict[Any, _Bar] = {}
        # How many lines at the bottom of the screen belong to bars; the cursor is at the end of the last.
        self._lines_shown = 0
        self._drawn_at = 0.0

    def report(self, key: Any, state: dict[str, Any], prefix: str = "") -> None:
        """Takes what is known of a bar.

        Args:
            key: What tells it from others.
            state: "desc", "n", "total" (0 or None when not known), "unit", "pos", "closed".
            prefix: Put before its description.
        """
        now = time.monotonic()
        with self._lock:
            _logs._bars = self
            bar = self._bars.get(key)
            if bar is None:
                if state["closed"] and not state["n"]:
                    return
                bar = self._bars[key] = _Bar(state, prefix, now)
                if len(self._bars) == 1 and not _can_overwrite():
                    self._drawn_at = now  # what ends soon gets one line
            bar.state = state
            if state["closed"]:
                self.hide()
                del self._bars[key]
                _put(f"{bar.text(now)}\n")
                self.show()
            elif now - self._drawn_at >= (_REDRAW_SECONDS if _can_overwrite() else _REPEAT_SECONDS):
                self.hide()
                self.show()

    def hide(self) -> None:
        """Takes the bars off the screen, so that something can be printed; `show` must follow, in the same thread."""
        self._lock.acquire()
        if self._lines_shown:
            _put("\r\033[K" + "\033[1A\033[2K" * (self._lines_shown - 1))
            self._lines_shown = 0

    def show(self) -> None:
        """Draws the bars."""
        try:
            bars = sorted(self._bars.values(), key=lambda bar: bar.state["pos"])
            now = time.monotonic()
            if not bars:
                return
            if _can_overwrite():
                self._drawn_at = now
                if _is_notebook():
                    _put("\r\033[K" + "  |  ".join(bar.text(now) for bar in bars))
                    self._lines_shown = 1
                else:
                    width = _columns()
                    _put("\n".join(bar.text(now)[:width] for bar in bars))
                    self._lines_shown = len(bars)
            elif now - self._drawn_at >= _REPEAT_SECONDS:
                self._drawn_at = now
                _put("".join(f"{bar.text(now)}\n" for bar in bars))
        finally:
            self._lock.release()


def _put(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # closed, or there is none
        return


def _is_notebook() -> bool:
    return type(sys.stderr).__module__.startswith("ipykernel")


def _can_overwrite() -> bool:
    return _is_notebook() or _logs._is_terminal(sys.stderr)


def _columns() -> int:
    import shutil

    return max(shutil.get_terminal_size().columns - 1, 20)


# That of this process.
display = Display()


def take(name: str, pid: int, lines: list[str]) -> list[str]:
    """Shows the bars that a worker reports, and gives back the lines that are text.

    Args:
        name: Of the task or actor.
        pid: Of the worker.
        lines: What it printed.

    Returns:
        Those without a mark.
    """
    import json

    text = []
    for line in lines:
        if not line.startswith(_logs.PROGRESS_MARK):
            text.append(line)
            continue
        try:
            state = json.loads(line[len(_logs.PROGRESS_MARK) :])
            display.report((pid, state["id"]), state, f"({name} pid={pid}) " if name else f"(pid={pid}) ")
        except (ValueError, KeyError):  # a user's own line that looks like a report
            text.append(line)
    return text
