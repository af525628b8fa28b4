"""What workers print appears at the driver, prefixed, and in the session's files; nothing is lost at the end."""

import re

import pytest
from under_test import ray_rs_only, run_driver

pytestmark = pytest.mark.usefixtures("no_cluster")

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def lines(text):
    return COLOUR.sub("", text).splitlines()


def test_prefixes_streams_and_order():
    done = run_driver(
        """
        import os, sys, time
        ray.init(num_cpus=1)

        @ray.remote
        def chatty():
            for i in range(5):
                print("line number", "abcde"[i])
            print("to stderr", file=sys.stderr)
            return os.getpid()

        @ray.remote
        class Plain:
            def speak(self):
                print("from a plain actor")
                return os.getpid()

        @ray.remote
        class Named:
            def __repr__(self):
                return "Named(7)"
            def speak(self):
                print("from a named one")
                return os.getpid()

        plain, named = Plain.remote(), Named.remote()
        print("PIDS", ray.get(chatty.remote()), ray.get(plain.speak.remote()), ray.get(named.speak.remote()))
        time.sleep(1)
        """
    )
    out, err = lines(done.stdout), lines(done.stderr)
    pids = next(line for line in out if line.startswith("PIDS")).split()[1:]
    spoken = [line for line in out if "line number" in line]
    assert spoken == [f"(chatty pid={pids[0]}) line number {c}" for c in "abcde"]
    assert f"(chatty pid={pids[0]}) to stderr" in err
    assert f"(Plain pid={pids[1]}) from a plain actor" in out
    assert f"(Named(7) pid={pids[2]}) from a named one" in out


@ray_rs_only("Ray waits half a second at the end, and loses what takes longer")
def test_nothing_is_lost_at_exit():
    done = run_driver(
        """
        ray.init(num_cpus=2)

        @ray.remote
        def burst(who):
            for i in range(2000):
                print(f"{who}: {i:05d}")

        ray.get([burst.remote(who) for who in ("one", "two")])
        """,
        env={"RAY_DEDUP_LOGS": "0"},
    )
    for who in ("one", "two"):
        numbers = [int(line.rpartition(" ")[2]) for line in lines(done.stdout) if f") {who}: " in line]
        assert numbers == list(range(2000))


@ray_rs_only("Ray's last words of a crashing worker are lost now and then")
def test_last_words_of_a_crashed_worker():
    done = run_driver(
        """
        import os, sys
        ray.init(num_cpus=1)

        @ray.remote(max_retries=0)
        def crash():
            print("famous last words", flush=True)
            sys.stderr.write("and on stderr")
            sys.stderr.flush()
            os._exit(3)

        try:
            ray.get(crash.remote())
        except ray.exceptions.WorkerCrashedError as error:
            print("CRASHED")
        """
    )
    assert any("(crash pid=" in line and "famous last words" in line for line in lines(done.stdout))
    assert any("and on stderr" in line for line in lines(done.stderr))
    assert "CRASHED" in done.stdout


def test_logs_can_stay_away_from_the_driver():
    done = run_driver(
        """
        import glob, os, time
        context = ray.init(num_cpus=1, log_to_driver=False)

        @ray.remote
        def speak():
            print("only in the file", flush=True)
            return os.getpid()

        pid = ray.get(speak.remote())
        pattern = context.address_info["session_dir"] + f"/logs/worker-*-{pid}.out"
        deadline = time.monotonic() + 20
        while True:
            text = "".join(open(path).read() for path in glob.glob(pattern))
            if "only in the file" in text:
                break
            assert time.monotonic() < deadline, glob.glob(pattern)
            time.sleep(0.05)
        print("FOUND")
        """
    )
    assert "FOUND" in done.stdout
    assert not any("(speak pid=" in line for line in lines(done.stdout))


UNFETCHED = """
import time
ray.init(num_cpus=1)

@ray.remote
def fail(how):
    raise ValueError(f"nobody asked for the {how} one")

@ray.remote
def use(x):
    return x

@ray.remote
class Actor:
    def fail(self):
        raise ValueError("nobody asked for the called one")

fail.remote("forgotten")
kept = fail.remote("kept")
used = fail.remote("used")
result = use.remote(used)
actor = Actor.remote()
actor.fail.remote()
got, both = fail.remote("fetched"), [fail.remote("first"), fail.remote("second")]
for refs in (got, both):
    try:
        ray.get(refs)
    except ValueError:
        pass
ray.get(actor.__ray_ready__.remote())
ray.wait([kept, result, *both], num_returns=4)
del kept, used, result, got, both
alive = fail.remote("living")
ray.wait([alive])
"""


def test_an_error_nobody_fetched_is_printed():
    """When its last reference goes; what became another task's error, or was passed over by a get, is not."""
    err = run_driver(UNFETCHED).stderr
    told = [line for line in lines(err) if "Unhandled error (suppress with 'RAY_IGNORE_UNHANDLED_ERRORS=1'): " in line]
    assert all("ERROR" in line for line in told)
    printed = re.findall(r"ValueError: nobody asked for the (\w+) one", err)
    assert sorted(printed) == ["called", "forgotten", "kept", "used"]
    assert len(told) == 4
    assert err.count("At least one of the input arguments") == 1


def test_errors_nobody_fetched_can_be_kept_quiet():
    assert "nobody asked" not in run_driver(UNFETCHED, env={"RAY_IGNORE_UNHANDLED_ERRORS": "1"}).stderr


def test_the_init_banner():
    done = run_driver("ray.init(num_cpus=1)")
    assert "Started a local Ray instance." in done.stderr
