"""The module that the tests speak to: `ray_rs`, or Ray itself when RAY_UNDER_TEST=ray.

The same tests run against both, so that what they ask for is what Ray does. Where ray_rs promises more, the test
carries `ray_rs_only` with the reason.
"""

import importlib
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAME = os.environ.get("RAY_UNDER_TEST", "ray_rs")
IS_RAY = NAME == "ray"
ray: Any = importlib.import_module(NAME)
exceptions: Any = importlib.import_module(f"{NAME}.exceptions")

# What a test may wait for something that must happen. Long, because a slow machine is not a failure.
PATIENCE = 30.0


def ray_rs_only(reason: str) -> pytest.MarkDecorator:
    """Marks a test of something that ray_rs does better than Ray; not run (nor skipped) against Ray."""
    return pytest.mark.ray_rs_only(reason=reason)


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Polls until the condition is truthy and returns its value; fails with `what` otherwise."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience} s for {what}; last seen: {value!r}")
        time.sleep(0.02)


def script(body: str) -> str:
    """A driver's source: the body with `ray` imported under the name that is tested."""
    return f"import {NAME} as ray\n" + textwrap.dedent(body)


def contents(path: str | os.PathLike[str]) -> str:
    """What stands in a file; nothing when it is not there (yet)."""
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        return ""


# Started by the test that runs; ended after it.
_drivers: list[subprocess.Popen[str]] = []


def start_driver(body: str, *args: str, env: dict[str, str] | None = None, **popen: Any) -> subprocess.Popen[str]:
    """Starts a script in an interpreter of its own, as a user would. It ends with the test at the latest."""
    folder = Path(tempfile.mkdtemp(prefix="driver-", dir=os.environ["RAY_RS_TEST_SCRATCH"]))
    path = folder / "driver.py"
    path.write_text(script(body))
    driver = subprocess.Popen(
        [sys.executable, "-u", str(path), *args],
        stdout=popen.pop("stdout", subprocess.PIPE),
        stderr=popen.pop("stderr", subprocess.PIPE),
        text=True,
        env={**os.environ, **(env or {})},
        **popen,
    )
    _drivers.append(driver)
    return driver


def run_command(*arguments: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `ray_rs` as at a shell; it ends with this status and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "ray_rs.scripts", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def command(*arguments: str, status: int = 0, **environment: str) -> str:
    """What `ray_rs` prints; on stderr, if it is to fail."""
    done = run_command(*arguments, status=status, **environment)
    return done.stdout if status == 0 else done.stderr


def end_drivers() -> None:
    """Ends the drivers that the test has left running, and closes what they printed to."""
    while _drivers:
        driver = _drivers.pop()
        driver.kill()
        driver.wait()
        for stream in (driver.stdin, driver.stdout, driver.stderr):
            if stream is not None:
                stream.close()


def run_driver(
    body: str, *args: str, timeout: float = 50, check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end and returns what it printed."""
    process = start_driver(body, *args, env=env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the driver did not end within {timeout} s\n-- stdout\n{out}\n-- stderr\n{err}")
    if check and process.returncode != 0:
        pytest.fail(f"the driver ended with {process.returncode}\n-- stdout\n{out}\n-- stderr\n{err}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
