"""`ray.why`, and what a `get` that waits for long says by itself."""

import os
import subprocess
import sys

import pytest
from under_test import ray, ray_rs_only, script, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("why() is an extension")]


@ray.remote
def until(path, value=None):
    while not os.path.exists(path):
        for _ in range(100_000):
            pass
    return os.getpid()


@ray.remote
def pass_on(value):
    return value


@ray.remote
class Worker:
    def pid(self):
        return os.getpid()

    def until(self, path):
        while not os.path.exists(path):
            for _ in range(100_000):
                pass

    def later(self, value):
        return value


@ray.remote
class Slow:
    def __init__(self, path):
        while not os.path.exists(path):
            for _ in range(100_000):
                pass

    def method(self):
        return 1


@pytest.fixture
def gate(tmp_path):
    """A file that lets what waits for it go on; made at the end in any case."""
    path = str(tmp_path / "gate")
    yield path
    open(path, "w").close()


def says(target, *words):
    """Waits until `why` says all of the words, and returns the text."""

    def text():
        told = ray.why(target)
        return told if all(word in told for word in words) else None

    try:
        return wait_until(text, f"why() to say {words}")
    except BaseException:
        print(ray.why(target))
        raise


def test_a_task_that_runs(gate):
    ref = until.remote(gate)
    text = says(ref, "'until' runs since", "on pid")
    assert ref.hex() in text
    open(gate, "w").close()
    assert f"on pid {ray.get(ref)}" in text


def test_arguments_of_arguments(gate):
    first = until.remote(gate)
    last = pass_on.remote(pass_on.remote(first))
    text = says(last, "waits for an argument", "'until' runs since")
    assert text.count("waits for an argument") == 2
    # By the id of the task, and by digits, it is the same story.
    assert "'until' runs since" in ray.why(last.task_id())
    assert "'until' runs since" in ray.why(last.hex())


def test_what_no_node_has():
    ref = pass_on.options(num_cpus=1000).remote(1)
    says(ref, "waits for a worker", "{CPU: 998} is missing")
    ray.cancel(ref)


def test_behind_tasks_that_hold_the_cpus(gate):
    running = [until.remote(gate) for _ in range(2)]
    for ref in running:
        says(ref, "runs since")
    behind = pass_on.remote(1)
    says(behind, "waits for a worker", "free is {CPU: 0}")


def test_a_call_behind_another_one(gate):
    actor = Worker.remote()
    ray.get(actor.pid.remote())
    actor.until.remote(gate)
    behind = actor.later.remote(1)
    says(behind, "waits for its turn in its actor", "The actor Worker", "'Worker.until' runs since")
    says(actor, "The actor Worker", "1 call waits there")


def test_a_call_behind_one_whose_argument_is_not_there(gate):
    actor = Worker.remote()
    ray.get(actor.pid.remote())
    actor.later.remote(until.remote(gate))
    behind = actor.later.remote(2)
    says(behind, "an earlier call", "waits for an argument", "'until' runs since")


def test_an_actor_that_is_not_made_yet(gate):
    says(Slow.remote(gate).method.remote(), "its constructor runs since")
    waiting = Slow.remote(until.remote(gate)).method.remote()
    says(waiting, "actor is not created yet", "arguments of its constructor", "'until' runs since")
    impossible = Slow.options(num_cpus=1000).remote(gate)
    says(impossible.method.remote(), "not created yet", "is missing")


def test_values_that_are_there():
    assert "is there: 1000 bytes" in ray.why(ray.put(b"x" * 960)).replace("960 bytes", "1000 bytes")
    large = ray.put(b"x" * 1_000_000)
    text = ray.why(large)
    assert "in the object store" in text and f"made at {__file__}:" in text
    nothing = pass_on.remote(None)
    ray.get(nothing)
    assert "it is None" in ray.why(nothing)


def test_an_error_that_is_there():
    @ray.remote
    def fail():
        raise ValueError("no")

    ref = fail.remote()
    with pytest.raises(ValueError):
        ray.get(ref)
    assert "is an error" in ray.why(ref)


def test_a_borrower_asks_the_owner(gate):
    @ray.remote
    def ask(refs):
        return ray.why(refs[0])

    ref = until.remote(gate)
    says(ref, "runs since")
    assert "'until' runs since" in ray.get(ask.remote([ref]))


def test_a_notebook_shows_state_and_age(gate):
    ref = until.remote(gate)
    says(ref, "runs since")
    html = ref._repr_html_()
    assert "RUNNING" in html and "Age" in html
    open(gate, "w").close()
    ray.get(ref)
    assert "RUNNING" not in ref._repr_html_() and "bytes" in ref._repr_html_()


def test_an_array_that_is_read_only_says_what_to_do():
    numpy = pytest.importorskip("numpy")

    @ray.remote
    def write(array):
        array[0] = 1

    with pytest.raises(ValueError, match=r"array.copy\(\)") as raised:
        ray.get(write.remote(numpy.zeros(1_000_000)))
    assert "read-only" in str(raised.value)


def test_what_is_no_target():
    with pytest.raises(ValueError, match="is no id"):
        ray.why("abc")
    with pytest.raises(TypeError, match="takes an ObjectRef"):
        ray.why(5)
    assert "known to no process" in ray.why("00" * 28)


def test_a_get_that_waits_for_long_says_why_once(tmp_path):
    program = script(
        """
        import sys, time
        ray.init(num_cpus=1)

        @ray.remote
        def slow(seconds):
            time.sleep(seconds)
            return seconds

        print(ray.get(slow.remote(1.5)))
        """
    )
    environment = {**os.environ, "RAY_RS_EXPLAIN_WAITS_AFTER_S": "0.2"}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout.strip() == "1.5"
    # It simply runs: that is said once, though the wait lasted for the second time, too.
    assert ran.stderr.count("has waited for") == 1
    assert "'slow' runs since" in ran.stderr
    environment["RAY_RS_EXPLAIN_WAITS_AFTER_S"] = "0"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert "has waited for" not in ran.stderr


def test_an_await_that_lasts_says_why(tmp_path):
    program = script(
        """
        import asyncio, time
        ray.init(num_cpus=2)

        @ray.remote
        def slow(seconds):
            time.sleep(seconds)
            return seconds

        @ray.remote
        def never(value):
            pass

        async def main():
            cancelled = asyncio.ensure_future(never.options(num_gpus=5).remote(1))
            await asyncio.sleep(0)
            cancelled.cancel()
            print(await asyncio.gather(slow.remote(1.5), slow.remote(0)))

        asyncio.run(main())
        """
    )
    environment = {**os.environ, "RAY_RS_EXPLAIN_WAITS_AFTER_S": "0.2"}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout.strip() == "[1.5, 0]"
    # It simply runs: that is said once. What nobody awaits any more is not told of.
    assert ran.stderr.count("An await has waited for") == 1
    assert "'slow' runs since" in ran.stderr and "GPU" not in ran.stderr.partition("An await")[2]
    environment["RAY_RS_EXPLAIN_WAITS_AFTER_S"] = "0"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert "has waited for" not in ran.stderr


def test_a_coroutine_that_awaits(gate):
    @ray.remote
    class Awaits:
        async def ask(self, refs):
            return await refs[0]

    ref = Awaits.remote().ask.remote([until.remote(gate)])
    text = says(ref, "'Awaits.ask' runs since", "It awaits since", "'until' runs since")
    assert text.index("It awaits") < text.index("'until' runs")
