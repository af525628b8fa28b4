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
        pids = ray.get([chatty.remote(), plain.speak.remote(), named.speak.remote()])
        # In one piece, as lines of workers may come between two.
        sys.stdout.write(" ".join(["PIDS", *map(str, pids)]) + chr(10))
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
import os, sys, time

class Heard:
    def __init__(self, stream):
        self.stream, self.text = stream, ""
    def write(self, text):
        self.text += text
        return self.stream.write(text)
    def __getattr__(self, name):
        return getattr(self.stream, name)

heard = sys.stderr = Heard(sys.stderr)
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
waited = fail.remote("awaited")
ray.wait([waited])
del kept, used, result, got, both, waited
alive = fail.remote("living")
ray.wait([alive])
deadline = time.monotonic() + 20
expected = 0 if "RAY_IGNORE_UNHANDLED_ERRORS" in os.environ else 4
while heard.text.count("Unhandled error") < expected and time.monotonic() < deadline:
    time.sleep(0.05)
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


def test_retries_are_announced():
    done = run_driver(
        """
        import os, pathlib, tempfile
        ray.init(num_cpus=1)
        folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ["RAY_RS_TEST_SCRATCH"]))

        def tries(name):
            with open(folder / name, "a") as file:
                file.write("x")
            return len((folder / name).read_text())

        @ray.remote(retry_exceptions=True, max_retries=3)
        def flaky():
            if tries("flaky") < 3:
                raise ValueError("not yet")

        @ray.remote(max_retries=1)
        def crash():
            tries("crash")
            os._exit(3)

        @ray.remote(max_retries=-1)
        def stubborn():
            if tries("stubborn") < 2:
                os._exit(4)

        ray.get([flaky.remote(), stubborn.remote()])
        try:
            ray.get(crash.remote())
        except ray.exceptions.WorkerCrashedError:
            print("CRASHED")
        """
    )
    assert "CRASHED" in done.stdout
    said = lines(done.stdout + done.stderr)
    retried = [line for line in said if "retries remaining, so the task will be retried. Error: " in line]
    announced = [re.search(r"Task (\w+) failed. There are (\w+) retries remaining", line).groups() for line in retried]
    assert sorted(announced) == [("crash", "1"), ("flaky", "2"), ("flaky", "3"), ("stubborn", "infinite")]
    assert all(line.startswith("(raylet) ") for line in retried)
    assert sum(line == "ValueError: not yet" for line in said) == 2
    crashes = [line for line in said if "A worker died or was killed while executing a task by an unexpected" in line]
    assert len(crashes) == 3


def test_the_error_of_a_constructor_is_printed():
    done = run_driver(
        """
        ray.init(num_cpus=1)

        @ray.remote
        class Never:
            def __init__(self):
                raise ValueError("no such thing")
            def f(self):
                return 1

        try:
            ray.get(Never.remote().f.remote())
        except ray.exceptions.ActorDiedError:
            print("DIED")
        """
    )
    assert "DIED" in done.stdout
    printed = [line for line in lines(done.stderr) if "(Never pid=" in line]
    assert (
        "Exception raised in creation task: The actor died because of an error raised in its creation task"
        in printed[0]
    )
    assert printed[-1].endswith("ValueError: no such thing")


def test_errors_nobody_fetched_can_be_kept_quiet():
    assert "nobody asked" not in run_driver(UNFETCHED, env={"RAY_IGNORE_UNHANDLED_ERRORS": "1"}).stderr


def test_the_init_banner():
    done = run_driver("ray.init(num_cpus=1)")
    assert "Started a local Ray instance." in done.stderr
