"""Virtual environments for `pip` and `uv`: each made once a node, under the hash of what is asked for.

One is made in place, under a lock, and complete when it has a file that says so, which also holds what belongs on
`sys.path`. Packages of the driver are seen inside, below those that are installed: pip does not install again what is
there already and fits. The raylet runs `main` in a process of its own and waits for its line; `init` calls `install`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ray_rs.exceptions import RuntimeEnvSetupError

__all__ = ["install", "main", "venv_name"]

_READY_FILE = "ready.json"
_MAX_OUTPUT = 4000


def venv_name(tool: str, given: dict[str, Any]) -> str:
    """The name of the directory that is made for a normal form of a `pip` or `uv` field."""
    import hashlib

    asked = repr((tool, sorted(given.items()), sys.version, sys.prefix))
    return f"{tool}-{hashlib.sha256(asked.encode()).hexdigest()[:32]}"


def main(config: dict[str, Any]) -> None:
    """Fetches and installs, and writes "ok" or "error <why>".

    Args:
        config: session_dir, job_id (hexadecimal), sys_path (the driver's), runtime_env (JSON).
    """
    import json
    import signal
    import time

    try:
        from ray_rs import _env_packages

        env = json.loads(config["runtime_env"])
        seconds = _limit_s(env)
        deadline = None if seconds == -1 else time.monotonic() + seconds
        _env_packages.fetch(env, config["session_dir"], config["job_id"], deadline)
        if "_venv" in env:
            install(env, config["session_dir"], config["sys_path"])
        answer = "ok"
    except RuntimeEnvSetupError as error:
        answer = f"error {error.error_message}"
    except Exception as error:
        answer = f"error {type(error).__name__}: {error}"
    sys.stdout.write(answer)
    sys.stdout.flush()
    # What an installer left running, after a time-out for one; this process leads the group.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)


def _limit_s(env: dict[str, Any]) -> float:
    return env.get("config", {}).get("setup_timeout_seconds", 600)  # type: ignore[no-any-return]


def install(env: dict[str, Any], session_dir: str, sys_path: list[str]) -> None:
    """Makes the virtual environment that an environment names, if it has not been made.

    Args:
        env: An environment as `_environments.resolved` gives it.
        session_dir: The session's directory.
        sys_path: The driver's.

    Raises:
        RuntimeEnvSetupError: Something could not be installed.
    """
    import fcntl
    import time

    from ray_rs import _env_store

    tool = "pip" if env.get("pip") else "uv"
    target = os.path.join(_env_store.store_of(session_dir), env["_venv"])
    seconds = _limit_s(env)
    deadline = None if seconds == -1 else time.monotonic() + seconds
    ready = os.path.join(target, _READY_FILE)
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held by the process that installs the same, if any
        if os.path.exists(ready):
            return
        try:
            _make(target, sys_path)
            _Installer(target, deadline, seconds).run(tool, env[tool])
            _say_ready(target, ready)
        except OSError as error:
            raise RuntimeEnvSetupError(f"{target} could not be made: {error}") from error


def _make(target: str, sys_path: list[str]) -> None:
    import shutil
    import venv

    if os.path.exists(target):  # what an installation that was ended has left
        shutil.rmtree(target)
    venv.EnvBuilder(symlinks=True).create(target)
    packages = [entry for entry in sys_path if os.path.basename(entry) in ("site-packages", "dist-packages")]
    with open(os.path.join(_site_packages(target), "_of_the_driver.pth"), "w") as file:
        file.write("\n".join(packages) + "\n")


def _site_packages(target: str) -> str:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return os.path.join(target, "lib", version, "site-packages")


def _say_ready(target: str, ready: str) -> None:
    import json

    packages = _site_packages(target)
    path = [packages]
    # Workers run without `site`: directories that it would add are added by name.
    for name in sorted(os.listdir(packages)):
        if not name.endswith(".pth") or name == "_of_the_driver.pth":
            continue
        with open(os.path.join(packages, name), encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
        path += [entry for line in lines if line and os.path.isdir(entry := os.path.join(packages, line))]
    with open(f"{ready}.new", "w") as file:
        json.dump({"path": path}, file)
    os.rename(f"{ready}.new", ready)


class _Installer:
    def __init__(self, target: str, deadline: float | None, seconds: float) -> None:
        self._python = os.path.join(target, "bin", "python")
        self._bin = os.path.join(target, "bin")
        self._deadline = deadline
        self._seconds = seconds

    def run(self, tool: str, given: dict[str, Any]) -> None:
        version = given.get(f"{tool}_version")
        if version:
            self._call([*self._pip(), "install", f"{tool}{version}"])
        if tool == "pip":
            base = [self._python, "-m", "pip"] if version else self._pip()
            self._call([*base, "install", "--disable-pip-version-check", *given["options"], *given["packages"]])
            check = [*base, "check"]
        else:
            uv = os.path.join(self._bin, "uv") if version else _uv()
            where = ["--python", self._python]
            self._call([uv, "pip", "install", *where, *given["options"], *given["packages"]])
            check = [uv, "pip", "check", *where]
        if given.get(f"{tool}_check"):
            self._call(check)

    def _pip(self) -> list[str]:
        return [sys.executable, "-m", "pip", "--python", self._python]

    def _call(self, command: list[str]) -> None:
        import subprocess
        import time

        left = None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            raise RuntimeEnvSetupError(f"{command[0]} was not found: install it, or use 'pip'.") from None
        except subprocess.TimeoutExpired:
            raise RuntimeEnvSetupError(
                f"{' '.join(command)}\ntook longer than {self._seconds} s; "
                "set config={'setup_timeout_seconds': ...} in the runtime_env."
            ) from None
        if done.returncode != 0:
            output = (done.stderr or done.stdout)[-_MAX_OUTPUT:]
            raise RuntimeEnvSetupError(f"{' '.join(command)}\nfailed:\n{output}")


def _uv() -> str:
    import shutil

    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    return beside if os.path.exists(beside) else shutil.which("uv") or "uv"
