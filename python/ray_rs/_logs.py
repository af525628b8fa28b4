"""What appears at the driver: lines printed by workers, and the engine's own messages.

`on_event` is called on a thread of the engine. Workers' lines go through `sys.stdout` and `sys.stderr` as they are at
that moment, so that in a notebook they land in the cell. Lines that several processes print alike within five seconds
are shown once, with a count of the rest (see `_Deduplicator`). The engine's own messages are written to stderr in Ray's
form, without `logging`, which costs more to import than a session costs to start; `configure` can send them there.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

__all__ = ["configure", "error", "flush", "forget", "info", "on_event", "warning"]

_DEBUG, _INFO, _WARNING, _ERROR = 10, 20, 30, 40
_LEVELS = {"debug": _DEBUG, "info": _INFO, "warning": _WARNING, "warn": _WARNING, "error": _ERROR, "critical": 50}
_LEVEL_NAMES = {_DEBUG: "DEBUG", _INFO: "INFO", _WARNING: "WARNING", _ERROR: "ERROR"}

# Opens a line that is not text but the state of a worker's progress bar (`experimental.tqdm_ray`).
PROGRESS_MARK = "::ray_rs.progress:: "
# The same of a worker that stops at a breakpoint (`_debugger`).
DEBUGGER_MARK = "::ray_rs.debugger:: "
# The `_progress.Display` of this process, once it has drawn something.
_bars: Any = None

_CYAN, _YELLOW, _GREEN, _RESET = "\033[36m", "\033[33m", "\033[32m", "\033[0m"


class _Settings:
    level = _INFO
    # The user configures logging: messages go to the logger "ray_rs".
    use_logging = False
    # Workers' lines are shown.
    show_workers = True
    # Workers' lines carry their task and actor themselves (`LoggingConfig`).
    structured = False


# Told of each event before it is shown, as `on_event` is; of tests (`_private.test_utils.Subscriber`).
listeners: list[Any] = []


def forget() -> None:
    """The session has ended: what comes next knows nothing of what its `init` was told about logs."""
    configure(level=_INFO, use_logging=False, show_workers=True)


def configure(*, level: int | str, use_logging: bool, show_workers: bool, structured: bool = False) -> None:
    """Sets what `init` was told about logs."""
    _Settings.level = _LEVELS.get(level.lower(), _INFO) if isinstance(level, str) else level
    _Settings.use_logging = use_logging
    _Settings.show_workers = show_workers
    _Settings.structured = structured
    _lines.enabled = os.environ.get("RAY_DEDUP_LOGS", "1") not in ("0", "false", "False")


# --------------------------------------------------------------------------------------------- the engine's messages


def info(text: str) -> None:
    """Says something the person at the driver may want to know."""
    _message(_INFO, text)


def warning(text: str) -> None:
    """Says something the person at the driver should look at."""
    _message(_WARNING, text)


def error(text: str) -> None:
    """Says that something went wrong."""
    _message(_ERROR, text)


def _message(level: int, text: str) -> None:
    if _Settings.use_logging:
        import logging

        logging.getLogger("ray_rs").log(level, text)
        return
    if level < _Settings.level:
        return
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    _write(sys.stderr, f"{stamp},{int(now % 1 * 1000):03d}\t{_LEVEL_NAMES.get(level, level)} -- {text}\n")


# ------------------------------------------------------------------------------------------------------ workers' lines


def on_event(kind: str, *details: Any) -> None:
    """Called by the engine.

    Args:
        kind: "log" (name, pid, is_stderr, lines), "notice" (level 0..2, text), "retried" (task name, number of retries
            or None, text of the error or None), "worker_crashed" (text), "unseen_error" (text),
            "explanation" (text), or "raylet_died".
        *details: See `kind`.
    """
    for listener in listeners:
        listener(kind, *details)
    if kind == "log":
        name, pid, is_stderr, lines = details
        if _Settings.show_workers:
            _print_lines(name, pid, is_stderr, lines)
    elif kind == "notice":
        level, text = details
        _notice((_INFO, _WARNING, _ERROR)[level], text)
    elif kind == "explanation":
        print(f"(ray_rs) {details[0]}", file=sys.stderr)
    elif kind == "retried":
        name, retries, text = details
        left = "infinite" if retries is None else retries
        reason = "its worker died." if text is None else f"User exception:\n{text}"
        _notice(
            _INFO,
            f"Task {name} failed. There are {left} retries remaining, so the task will be retried. Error: {reason}",
        )
    elif kind == "worker_crashed":
        text = details[0].partition(". ")[2]
        _notice(
            _WARNING,
            f"A worker died or was killed while executing a task by an unexpected system error. {text}",
        )
    elif kind == "unseen_error":
        if os.environ.get("RAY_IGNORE_UNHANDLED_ERRORS", "0") in ("0", ""):
            error(f"Unhandled error (suppress with 'RAY_IGNORE_UNHANDLED_ERRORS=1'): {details[0]}")
    elif kind == "raylet_died":
        error("The raylet of this node died; the session is over.")


def _notice(level: int, text: str) -> None:
    if _Settings.use_logging:
        _message(level, text)
    else:
        stream = sys.stderr
        _write(stream, f"{_paint('(raylet)', _YELLOW, stream)} {text}\n")


def _print_lines(name: str, pid: int, is_stderr: bool, lines: list[str]) -> None:
    if any(line.startswith(PROGRESS_MARK) for line in lines):
        from ray_rs import _progress

        lines = _progress.take(name, pid, lines)
    if is_stderr and any(line.startswith(DEBUGGER_MARK) for line in lines):
        from ray_rs import _debugger

        lines = _debugger.take(lines)
    stream = sys.stderr if is_stderr else sys.stdout
    if os.environ.get("RAY_DISABLE_WORKER_LOG_PREFIX") or _Settings.structured:
        prefix = ""
    else:
        prefix = _paint(f"({name} pid={pid})" if name else f"(pid={pid})", _CYAN, stream) + " "
    shown = _lines.filter(prefix, pid, is_stderr, lines)
    # One write, so that lines of several workers and of the driver do not mix.
    _write(stream, "".join(f"{line}\n" for line in shown))


def _paint(text: str, colour: str, stream: Any) -> str:
    """Colours text where someone sees colours; RAY_COLOR_PREFIX=1 insists on it and 0 forbids it."""
    wish = os.environ.get("RAY_COLOR_PREFIX")
    if wish == "0" or (wish is None and (os.environ.get("NO_COLOR") or not _is_terminal(stream))):
        return text
    return f"{colour}{text}{_RESET}"


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _write(stream: Any, text: str) -> None:
    if not text or stream is None:
        return
    bars = _bars
    if bars is not None:
        bars.hide()
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):  # closed, or nobody reads the pipe any more
        pass
    finally:
        if bars is not None:
            bars.show()


# ------------------------------------------------------------------------------------------------ the same line again


class _Deduplicator:
    """Shows a line that several processes print within a few seconds once, and later how often it was repeated.

    Two lines are the same when they are equal without their words that hold digits. What a single process repeats is
    never held back, nor are lines that consist of such words only.
    """

    WINDOW_SECONDS = 5.0

    def __init__(self) -> None:
        self.enabled = True
        # pattern -> [first seen, pids, lines held back, prefix of the last one, its text, went to stderr]
        self._seen: dict[str, list[Any]] = {}
        self._explained = False
        self._timer: Any = None

    def filter(self, prefix: str, pid: int, is_stderr: bool, lines: list[str]) -> list[str]:
        """The lines to print now, each with its prefix."""
        if not self.enabled:
            return [prefix + line for line in lines]
        now = time.monotonic()
        shown = [text for text, _ in self.expired(now)]
        for line in lines:
            pattern = _pattern(line)
            entry = self._seen.get(pattern) if pattern else None
            if entry is None:
                if pattern:
                    self._seen[pattern] = [now, {pid}, 0, prefix, line, is_stderr]
                shown.append(prefix + line)
                continue
            entry[1].add(pid)
            if len(entry[1]) == 1:
                shown.append(prefix + line)
            else:
                entry[2:] = [entry[2] + 1, prefix, line, is_stderr]
                self._start_timer()
        return shown

    def expired(self, now: float) -> list[tuple[str, bool]]:
        """The summaries that are due, each with whether it belongs on stderr."""
        due: list[tuple[str, bool]] = []
        for pattern, (first, _, held_back, prefix, line, is_stderr) in list(self._seen.items()):
            if now - first < self.WINDOW_SECONDS:
                break  # they are in the order in which they were first seen
            del self._seen[pattern]
            if held_back:
                due.append((self._summary(held_back, prefix, line), is_stderr))
        return due

    def _summary(self, held_back: int, prefix: str, line: str) -> str:
        if held_back == 1:
            return prefix + line
        stream = sys.stdout
        note = _paint(f"[repeated {held_back}x across cluster]", _GREEN, stream)
        if not self._explained:
            self._explained = True
            note += " (lines that several processes print alike are shown once; RAY_DEDUP_LOGS=0 shows them all)"
        return f"{prefix}{line} {note}"

    def _start_timer(self) -> None:
        if self._timer is not None:
            return
        import threading

        self._timer = threading.Timer(self.WINDOW_SECONDS, self._on_timer)
        self._timer.daemon = True
        self._timer.start()

    def _on_timer(self) -> None:
        self._timer = None
        print_summaries(time.monotonic())
        if any(entry[2] for entry in list(self._seen.values())):
            self._start_timer()


def _pattern(line: str) -> str:
    return " ".join(word for word in line.split() if not any(letter.isdigit() for letter in word))


_lines = _Deduplicator()


def print_summaries(now: float) -> None:
    """Prints the summaries of repeated lines that are due at `now`."""
    for text, is_stderr in _lines.expired(now):
        _write(sys.stderr if is_stderr else sys.stdout, f"{text}\n")


def flush() -> None:
    """Prints all that is held back; at shutdown, after the engine has delivered the last lines."""
    timer, _lines._timer = _lines._timer, None
    if timer is not None:
        timer.cancel()
    print_summaries(float("inf"))
