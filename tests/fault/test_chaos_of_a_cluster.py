"""A short run of `make chaos`: whatever dies, freezes or is cut off, nothing is lost, hangs, or stays behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from under_test import ray_rs_only

pytestmark = [ray_rs_only("looks into ray_rs's processes"), pytest.mark.timeout(300)]
RUN = Path(__file__).parent.parent / "chaos" / "run.py"


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost(seed, no_cluster):
    words = [sys.executable, str(RUN), "--minutes", "0.25", "--seed", str(seed), "--one-driver", "--not-the-stores"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] > 3
    assert figures["tasks"] > 100
