"""`import ray_rs` is a part of every program's start, and of every worker's."""

import subprocess
import sys

# Each of them would take a millisecond or several; what needs one imports it when it runs.
HEAVY = {
    "asyncio",
    "hashlib",
    "inspect",
    "json",
    "logging",
    "pickle",
    "random",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
}


def test_what_is_imported_is_little():
    program = "import sys; before = set(sys.modules); import ray_rs; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) & HEAVY == set()
