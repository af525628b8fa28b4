"""Helpers that test files written for Ray import from `ray._common.test_utils`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import ray_rs as ray

__all__ = [
    "Semaphore",
    "SignalActor",
    "async_wait_for_condition",
    "is_named_tuple",
    "run_string_as_driver",
    "wait_for_condition",
]


@ray.remote(num_cpus=0)
class SignalActor:
    """Lets tasks wait until a test says go."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._waiting = 0

    async def send(self, clear: bool = False) -> None:
        """Lets all go, or with `clear` makes those that come wait again.

        Args:
            clear: Make them wait again.
        """
        self._event.set()
        if clear:
            self._event.clear()

    async def wait(self, should_wait: bool = True) -> None:
        """Waits for `send`.

        Args:
            should_wait: False returns at once.
        """
        if should_wait:
            self._waiting += 1
            try:
                await self._event.wait()
            finally:
                self._waiting -= 1

    async def cur_num_waiters(self) -> int:
        """How many wait."""
        return self._waiting


@ray.remote(num_cpus=0)
class Semaphore:
    """A semaphore that tasks share.

    Args:
        value: How many may hold it.
    """

    def __init__(self, value: int = 1) -> None:
        self._semaphore = asyncio.Semaphore(value)

    async def acquire(self) -> None:
        """Waits for its turn."""
        await self._semaphore.acquire()

    async def release(self) -> None:
        """Lets the next one in."""
        self._semaphore.release()

    async def locked(self) -> bool:
        """Whether nobody else may come in."""
        return self._semaphore.locked()


def wait_for_condition(
    condition_predictor: Callable[..., bool],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Asks again and again until something is so.

    Args:
        condition_predictor: Whether it is so.
        timeout: Seconds after which to give up.
        retry_interval_ms: Milliseconds between two questions.
        raise_exceptions: Let exceptions of the question out; else they count as no.
        **kwargs: For the question.

    Raises:
        RuntimeError: It was not so in time.
    """
    deadline = time.monotonic() + timeout
    last = ""
    while time.monotonic() <= deadline:
        try:
            if condition_predictor(**kwargs):
                return
        except Exception:
            if raise_exceptions:
                raise
            last = traceback.format_exc()
        time.sleep(retry_interval_ms / 1000)
    raise RuntimeError(_not_met(last))


async def async_wait_for_condition(
    condition_predictor: Callable[..., Any], timeout: float = 10, retry_interval_ms: float = 100, **kwargs: Any
) -> None:
    """Like `wait_for_condition`, on an event loop.

    Args:
        condition_predictor: Whether it is so; may be a coroutine function.
        timeout: Seconds after which to give up.
        retry_interval_ms: Milliseconds between two questions.
        **kwargs: For the question.

    Raises:
        RuntimeError: It was not so in time.
    """
    deadline = time.monotonic() + timeout
    last = ""
    while time.monotonic() <= deadline:
        try:
            answer = condition_predictor(**kwargs)
            if await answer if isinstance(answer, Awaitable) else answer:
                return
        except Exception:
            last = traceback.format_exc()
        await asyncio.sleep(retry_interval_ms / 1000)
    raise RuntimeError(_not_met(last))


def _not_met(last: str) -> str:
    text = "The condition wasn't met before the timeout expired."
    return f"{text} Last exception: {last}" if last else text


def run_string_as_driver(
    driver_script: str, env: dict[str, str] | None = None, encode: str = "utf-8", timeout: float | None = 300
) -> str:
    """Runs a program in a process of its own, where `import ray` gives what it gives here.

    Args:
        driver_script: Its source.
        env: Its environment; this process's when None.
        encode: How its output is encoded.
        timeout: Seconds it may take.

    Returns:
        What it printed, on either stream.

    Raises:
        subprocess.CalledProcessError: It failed; its output is printed.
        subprocess.TimeoutExpired: It took too long.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8", delete=False) as file:
        file.write(driver_script)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ray_rs", file.name],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    finally:
        os.unlink(file.name)
    output = done.stdout.decode(encode)
    if done.returncode:
        print(output, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout)
    return output


def is_named_tuple(cls: type) -> bool:
    """Whether a class was made by `collections.namedtuple` or `typing.NamedTuple`.

    Args:
        cls: The class.
    """
    fields = getattr(cls, "_fields", None)
    return cls.__bases__ == (tuple,) and isinstance(fields, tuple) and all(isinstance(each, str) for each in fields)
