"""Real processes in every test: clusters shared by the tests of a module, and a check that nothing is left of them."""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports the module under test: all that is started from here on carries the mark, and keeps its
# sessions in a directory of our own (short, because socket paths are limited to 108 bytes).
os.environ.setdefault("RAY_RS_TEST_MARK", uuid.uuid4().hex)
os.environ["RAY_RS_TMPDIR"] = tempfile.mkdtemp(prefix="rrs-", dir="/tmp")
os.environ["RAY_RS_TEST_SCRATCH"] = tempfile.mkdtemp(prefix="rrs-scratch-", dir="/tmp")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

if os.environ.get("RAY_UNDER_TEST") == "ray":
    # Ray's workers import from the script's directory and PYTHONPATH, not from all of the driver's sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        str(Path(__file__).parent / name) for name in ("", "api", "fault", "compat", "util")
    )

import traces
from under_test import IS_RAY, end_drivers, ray

HERE = Path(__file__).parent
SHM_BEFORE = traces.shared_memory()


def pytest_configure(config: pytest.Config) -> None:
    if IS_RAY:
        # Ray warns about a good many things that are no business of these tests, and starts in seconds.
        config.addinivalue_line("filterwarnings", "ignore")
    else:
        from hypothesis import HealthCheck, settings

        # How long an example takes says more of what else the machine does than of the engine.
        settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("any machine")


def pytest_unconfigure() -> None:
    for name in ("RAY_RS_TMPDIR", "RAY_RS_TEST_SCRATCH"):
        shutil.rmtree(os.environ[name], ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if IS_RAY:
        ours = [item for item in items if item.get_closest_marker("ray_rs_only")]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


def allowed_skips() -> dict[str, str]:
    """Test id and reason of each test that may be skipped where skipping is otherwise a failure."""
    lines = (HERE / "allowed_skips.txt").read_text().splitlines()
    entries = [line.partition(" # ") for line in lines if line.strip() and not line.startswith("#")]
    return {name.strip(): reason for name, _, reason in entries if reason}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    strict = os.environ.get("RAY_RS_FAIL_ON_SKIP") and not hasattr(report, "wasxfail")
    if report.skipped and strict and item.nodeid not in allowed_skips():
        report.outcome = "failed"
        report.longrepr = f"skipped without an entry in tests/allowed_skips.txt: {report.longrepr}"
    if report.failed:
        report.sections.append(("logs of the newest sessions", traces.logs()))


def nothing_left(patience: float = 5.0) -> None:
    """Fails unless all that our clusters started is gone."""
    if IS_RAY:
        return
    deadline = time.monotonic() + patience
    while True:
        left = {
            "processes": traces.processes(),
            "shared memory": traces.shared_memory() - SHM_BEFORE,
            "session files": traces.session_files(),
        }
        if not any(left.values()):
            return
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(f"{what}: {found}" for what, found in left.items() if found))
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def _leak_check() -> Iterator[None]:
    """After each test that ends without a cluster, nothing may be left. A shared cluster is checked at its end."""
    yield
    end_drivers()
    if not ray.is_initialized():
        nothing_left()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two CPUs, shared by the tests of a module."""
    ray.shutdown()
    context = ray.init(num_cpus=2, namespace="tests", include_dashboard=False)
    yield context
    ray.shutdown()
    nothing_left()


@pytest.fixture
def no_cluster() -> Iterator[None]:
    """For a test that starts its own; whatever it leaves running is shut down."""
    ray.shutdown()
    yield
    ray.shutdown()
