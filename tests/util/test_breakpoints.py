"""Debuggers in tasks and actors, and people who attach to them."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
import traces
from under_test import PATIENCE, ray, ray_rs_only, wait_until

pytestmark = [pytest.mark.usefixtures("no_cluster"), ray_rs_only("Ray's debugger is another")]


@ray.remote
def stops(x):
    y = x + 1
    breakpoint()
    return y * 2


def debug(*arguments, typed="", status=0):
    done = subprocess.run(
        [sys.executable, "-m", "ray_rs.scripts", "debug", *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def stopped(count=1):
    wait_until(lambda: debug("--list").count("stops at a breakpoint") == count, f"{count} to stop")


def test_somebody_attaches_and_looks_round():
    ray.init(num_cpus=2)
    ref = stops.remote(20)
    stopped()
    text = debug(typed="p x, y\ny = 100\nc\n")
    assert re.search(r"0: 'stops' \(pid=\d+\) stops at a breakpoint: .*test_breakpoints\.py:\d+", text)
    assert "(20, 21)" in text
    assert "return y * 2" in text
    assert ray.get(ref, timeout=30) == 200
    assert "Nothing stops" in debug(status=1)


def test_stepping_and_breakpoints_of_its_own():
    ray.init(num_cpus=1)

    @ray.remote
    def counts():
        breakpoint()
        total = 0
        for i in range(3):
            total += i
        return total

    ref = counts.remote()
    stopped()
    line = counts._function.__code__.co_firstlineno + 5
    text = debug(typed=f"n\nb {line}\nc\np 'total is', total\nc\np 'total is', total\ncl 1\nc\n")
    assert text.count("('total is', 0)") == 2
    assert ray.get(ref, timeout=30) == 3


def test_several_stop_and_one_is_chosen():
    ray.init(num_cpus=2)
    refs = [stops.remote(1), stops.remote(2)]
    stopped(2)
    assert "There are several" in debug(status=1)
    assert "no number 7" in debug("7", status=1)
    debug("0", typed="c\n")
    stopped(1)
    # Whoever leaves lets it go on.
    debug("0", typed="")
    assert ray.get(refs, timeout=30) == [4, 6]


def test_an_actor_stops_and_quit_fails_the_call():
    ray.init(num_cpus=1)

    @ray.remote
    class Actor:
        def __init__(self):
            self.value = 5

        def stops(self):
            breakpoint()
            return self.value

    actor = Actor.remote()
    ref = actor.stops.remote()
    stopped()
    assert "55" in debug(typed="p self.value * 11\nq\n")
    with pytest.raises(ray.exceptions.RayTaskError, match="BdbQuit"):
        ray.get(ref, timeout=30)
    ref = actor.stops.remote()
    stopped()
    debug(typed="c\n")
    assert ray.get(ref, timeout=30) == 5


def test_a_task_that_stops_can_be_cancelled():
    ray.init(num_cpus=1)
    ref = stops.remote(1)
    stopped()
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=30)
    assert "Nothing stops" in debug("--list")


def test_post_mortem(monkeypatch):
    monkeypatch.setenv("RAY_DEBUG_POST_MORTEM", "1")
    ray.init(num_cpus=1)

    @ray.remote(max_retries=0)
    def raises():
        inner = "what was wrong"
        raise KeyError(inner)

    ref = raises.remote()
    wait_until(lambda: "has raised" in debug("--list"), "it to stop")
    assert "what was wrong" in debug(typed="p inner\nq\n")
    with pytest.raises(KeyError):
        ray.get(ref, timeout=30)


def test_a_hook_of_the_user_counts_more(monkeypatch):
    monkeypatch.setenv("PYTHONBREAKPOINT", "os.getcwd")
    ray.init(num_cpus=1)
    assert ray.get(stops.remote(1), timeout=30) == 4


def test_the_socket_is_nobody_else_s():
    ray.init(num_cpus=1)
    ref = stops.remote(1)
    stopped()
    sockets = [path for path in traces.session_files() if "/debug-" in path]
    assert len(sockets) == 1
    assert os.stat(traces.session_root() / sockets[0]).st_mode & 0o777 == 0o600
    debug(typed="c\n")
    assert ray.get(ref, timeout=30) == 4
    assert not [path for path in traces.session_files() if "/debug-" in path]


def test_at_the_driver_s_own_terminal(tmp_path):
    (tmp_path / "program.py").write_text(
        "import ray_rs as ray\n"
        "ray.init(num_cpus=1)\n"
        "@ray.remote\n"
        "def f(x):\n"
        "    breakpoint()\n"
        "    return x\n"
        "print('result', ray.get(f.remote(7)))\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], stdin=theirs, stdout=theirs, stderr=theirs
    ) as program:
        os.close(theirs)
        seen = ""

        def until(words):
            nonlocal seen
            deadline = time.monotonic() + PATIENCE
            while words not in seen:
                assert time.monotonic() < deadline, seen
                if select.select([ours], [], [], 0.1)[0]:
                    seen += os.read(ours, 65536).decode(errors="replace")

        until("(Pdb) ")
        assert "stops at a breakpoint" in seen
        os.write(ours, b"p x * 6\n")
        until("42")
        os.write(ours, b"c\n")
        until("result 7")
        assert program.wait(30) == 0
    os.close(ours)
