"""Durable actors: whatever dies and whenever, each call is part of the state once, and every answer is true."""

import contextlib
import os
import random
import signal
import threading
import time

import pytest
from under_test import contents, exceptions, ray, ray_rs_only, run_driver, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("Ray has no durable actors")]

PATIENCE = 60


class Ledger:
    """Its state is the order in which it was called; an answer is the call's place in it."""

    def __init__(self, starts=None):
        self.entries = []
        if starts is not None:
            append(starts, "start\n")

    def add(self, caller, number):
        self.entries.append((caller, number))
        return len(self.entries) - 1

    def read(self):
        return self.entries

    def pid(self):
        return os.getpid()

    def refuse(self, caller, number):
        self.entries.append((caller, number))
        raise KeyError(f"{caller} {number}")

    def echo(self, value):
        self.entries.append(len(value))
        return value

    def die_once(self, marker):
        self.entries.append("died")
        if not os.path.exists(marker):
            append(marker, "x")
            os.kill(os.getpid(), signal.SIGKILL)
        return len(self.entries)


def append(path, text):
    with open(path, "a") as file:
        file.write(text)


def durable(cls=Ledger, **options):
    return ray.remote(cls).options(durable=True, **options)


def kill(actor):
    """Ends the actor's process from outside, whatever it does."""
    pid = ray.get(actor.pid.remote(), timeout=PATIENCE)
    with contextlib.suppress(ProcessLookupError):  # the answer of one that has died since
        os.kill(pid, signal.SIGKILL)


def check(entries, answers):
    """`answers`: by caller, (number, place) of each call that was answered."""
    assert len(set(map(tuple, entries))) == len(entries), "a call is part of the state twice"
    for caller, answered in answers.items():
        numbers = [number for name, number in entries if name == caller]
        assert numbers == sorted(numbers), f"the calls of {caller} are out of order"
        assert [number for number, _ in answered] == numbers, f"calls of {caller} are missing"
        for number, place in answered:
            assert tuple(entries[place]) == (caller, number), "an answer that is not true"


@ray.remote(num_cpus=0)
def call_often(actor, caller, count):
    refs = [actor.add.remote(caller, number) for number in range(count)]
    return list(enumerate(ray.get(refs, timeout=PATIENCE)))


def call_in_turn(actor, caller, count, answers):
    found = [(number, ray.get(actor.add.remote(caller, number), timeout=PATIENCE)) for number in range(count)]
    answers[caller] = found


@pytest.mark.parametrize("every", [1, 7, 1000])
def test_its_process_is_killed_again_and_again(every):
    actor = durable(checkpoint_every=every).remote()
    tasks = {f"task {i}": call_often.remote(actor, f"task {i}", 300) for i in range(2)}
    answers = {}
    threads = [threading.Thread(target=call_in_turn, args=(actor, f"thread {i}", 40, answers)) for i in range(2)]
    for thread in threads:
        thread.start()
    rng = random.Random(every)
    for _ in range(5):
        time.sleep(rng.random() * 0.2)
        kill(actor)
    for thread in threads:
        thread.join()
    answers |= {name: ray.get(ref, timeout=PATIENCE) for name, ref in tasks.items()}
    entries = ray.get(actor.read.remote(), timeout=PATIENCE)
    assert len(entries) == 2 * 300 + 2 * 40
    check(entries, answers)


@pytest.mark.parametrize("every", [1, 100])
def test_a_call_that_dies_in_the_middle_is_made_again(every, tmp_path):
    actor = durable(checkpoint_every=every).remote()
    ray.get([actor.add.remote("x", number) for number in range(10)], timeout=PATIENCE)
    # What it had added when it died was never part of what lasts.
    assert ray.get(actor.die_once.remote(tmp_path / "died"), timeout=PATIENCE) == 11
    assert ray.get(actor.add.remote("x", 10), timeout=PATIENCE) == 11


@pytest.mark.parametrize("every", [1, 100])
def test_the_constructor_runs_once(every, tmp_path):
    starts = tmp_path / "starts"
    actor = durable(checkpoint_every=every).remote(starts)
    for number in range(3):
        assert ray.get(actor.add.remote("x", number), timeout=PATIENCE) == number
        kill(actor)
    assert len(ray.get(actor.read.remote(), timeout=PATIENCE)) == 3
    assert contents(starts) == "start\n"


class Saves(Ledger):
    """Says itself what its state is: the rest is made by the constructor."""

    def __init__(self, log):
        super().__init__()
        self.log = open(log, "a")  # can't be pickled
        append(log, "init\n")

    def __ray_save__(self):
        return {"entries": self.entries}

    def __ray_restore__(self, state):
        self.entries = state["entries"]
        self.log.write(f"restored {len(self.entries)}\n")
        self.log.flush()


def test_a_class_that_saves_itself(tmp_path):
    log = tmp_path / "log"
    actor = durable(Saves, checkpoint_every=4).remote(log)
    for number in range(10):
        assert ray.get(actor.add.remote("x", number), timeout=PATIENCE) == number
    kill(actor)
    assert ray.get(actor.add.remote("x", 10), timeout=PATIENCE) == 10
    # Of the ten calls and that which told the process's id, eight are in a checkpoint.
    assert contents(log) == "init\ninit\nrestored 8\n"


def test_what_a_method_raises_is_kept_as_well():
    actor = durable(checkpoint_every=3).remote()
    refs = [actor.refuse.remote("x", number) for number in range(7)]
    kill(actor)
    for number, ref in enumerate(refs):
        with pytest.raises(KeyError, match=f"x {number}"):
            ray.get(ref, timeout=PATIENCE)
    assert ray.get(actor.read.remote(), timeout=PATIENCE) == [("x", number) for number in range(7)]


def test_retried_errors_are_calls_of_their_own(tmp_path):
    class Flaky(Ledger):
        @ray.method(max_task_retries=3, retry_exceptions=True)
        def often(self):
            self.entries.append("tried")
            if len(self.entries) < 3:
                raise ValueError("not yet")
            return len(self.entries)

    actor = durable(Flaky).remote()
    assert ray.get(actor.often.remote(), timeout=PATIENCE) == 3
    kill(actor)
    assert ray.get(actor.read.remote(), timeout=PATIENCE) == ["tried"] * 3


def test_arguments_by_reference_and_large_ones_are_replayed():
    actor = durable().remote()
    large = b"x" * 3_000_000
    ref = ray.put(large)
    assert ray.get(actor.echo.remote(ref), timeout=PATIENCE) == large
    assert ray.get(actor.echo.remote(b"y" * 500_000), timeout=PATIENCE) == b"y" * 500_000
    del ref
    kill(actor)
    assert ray.get(actor.read.remote(), timeout=PATIENCE) == [3_000_000, 500_000]


def test_what_cannot_be_kept_is_refused():
    class Careless(Ledger):
        def take(self, box):
            self.entries.append("taken")
            return "taken"

        def give(self):
            self.entries.append("given")
            return [ray.put(1)]

        def grow(self):
            return b"x" * 20_000_000

    actor = durable(Careless).remote()
    with pytest.raises(ValueError, match="ObjectRef inside an argument"):
        ray.get(actor.take.remote([ray.put(1)]), timeout=PATIENCE)
    with pytest.raises(ValueError, match="bytes, and of a durable actor's call"):
        ray.get(actor.take.remote(b"x" * 20_000_000), timeout=PATIENCE)
    assert ray.get(actor.read.remote(), timeout=PATIENCE) == []
    with pytest.raises(ValueError, match="ObjectRef or an actor handle"):
        ray.get(actor.give.remote(), timeout=PATIENCE)
    with pytest.raises(ValueError, match="no more than"):
        ray.get(actor.grow.remote(), timeout=PATIENCE)
    kill(actor)
    assert ray.get(actor.read.remote(), timeout=PATIENCE) == ["given"]
    # Without a replay an argument may be anything.
    actor = durable(Careless, checkpoint_every=1).remote()
    assert ray.get(actor.take.remote([ray.put(1)]), timeout=PATIENCE) == "taken"


def test_a_state_that_cannot_be_saved():
    class Bad(Ledger):
        def spoil(self):
            self.lock = threading.Lock()
            return "spoilt"

    actor = durable(Bad, checkpoint_every=1).remote()
    assert ray.get(actor.add.remote("x", 0), timeout=PATIENCE) == 0
    with pytest.raises(exceptions.RaySystemError, match="could not be saved after this call"):
        ray.get(actor.spoil.remote(), timeout=PATIENCE)
    assert ray.get(actor.add.remote("x", 1), timeout=PATIENCE) == 1

    class Worse(Ledger):
        def __init__(self):
            self.lock = threading.Lock()

    with pytest.raises(exceptions.ActorDiedError, match="pickle"):
        ray.get(durable(Worse).remote().pid.remote(), timeout=PATIENCE)


def test_checkpoints_by_time(tmp_path):
    log = tmp_path / "log"
    actor = durable(Saves, checkpoint_every=1000, checkpoint_interval_s=0.05).remote(log)
    for number in range(5):
        ray.get(actor.add.remote("x", number), timeout=PATIENCE)
    # Nobody calls meanwhile: the clock alone does it. How far it has come shows only in a process that starts anew.
    time.sleep(0.5)
    kill(actor)
    assert len(ray.get(actor.read.remote(), timeout=PATIENCE)) == 5
    assert contents(log).splitlines()[-1] == "restored 5"


def test_named_and_detached_ones():
    class Named(Ledger):
        pass

    options = {"name": "ledger", "lifetime": "detached", "get_if_exists": True}
    actor = durable(Named, **options).remote()
    assert ray.get(actor.add.remote("x", 0), timeout=PATIENCE) == 0
    kill(actor)
    again = durable(Named, **options).remote()
    assert again._actor_id == actor._actor_id
    assert ray.get(again.add.remote("x", 1), timeout=PATIENCE) == 1
    assert ray.get(ray.get_actor("ledger").read.remote(), timeout=PATIENCE) == [("x", 0), ("x", 1)]
    ray.kill(actor)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(again.read.remote(), timeout=PATIENCE)
    wait_until(lambda: gone("ledger"), "the name to be free")
    # Nothing of the old one is left for one of the same name.
    assert ray.get(durable(Named, **options).remote().read.remote(), timeout=PATIENCE) == []
    ray.kill(ray.get_actor("ledger"))


def gone(name):
    try:
        ray.get_actor(name)
    except ValueError:
        return True
    return False


def test_killed_with_a_restart_it_goes_on():
    actor = durable().remote()
    assert ray.get(actor.add.remote("x", 0), timeout=PATIENCE) == 0
    ray.kill(actor, no_restart=False)
    assert ray.get(actor.add.remote("x", 1), timeout=PATIENCE) == 1


def test_without_restarts_it_dies_as_any_other():
    actor = durable(max_restarts=0).remote()
    assert ray.get(actor.add.remote("x", 0), timeout=PATIENCE) == 0
    kill(actor)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(actor.add.remote("x", 1), timeout=PATIENCE)


def test_it_leaves_by_its_own_will():
    class Leaves(Ledger):
        def leave(self):
            ray.actor.exit_actor()

    actor = durable(Leaves).remote()
    refs = [actor.add.remote("x", number) for number in range(20)]
    last = actor.leave.remote()
    assert ray.get(refs, timeout=PATIENCE) == list(range(20))
    for ref in [last, actor.read.remote()]:
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(ref, timeout=PATIENCE)


def test_handles_in_arguments_and_in_the_state():
    @ray.remote
    class Other:
        def value(self):
            return 7

    class Holds(Ledger):
        def hold(self, other):
            self.other = other[0]

        def ask(self):
            return ray.get(self.other.value.remote())

    other = Other.remote()
    for every in (1, 100):
        actor = durable(Holds, checkpoint_every=every).remote()
        ray.get(actor.hold.remote([other]), timeout=PATIENCE)
        assert ray.get(actor.ask.remote(), timeout=PATIENCE) == 7
        kill(actor)
        assert ray.get(actor.ask.remote(), timeout=PATIENCE) == 7


def test_while_the_control_store_stands_still_answers_wait():
    script = """
        import json, os, signal, sys, time

        ray.init(num_cpus=1)

        @ray.remote(durable=True)
        class Counter:
            def __init__(self):
                self.count = 0

            def add(self):
                self.count += 1
                return self.count

            def pid(self):
                return os.getpid()

        counter = Counter.remote()
        assert ray.get(counter.add.remote()) == 1
        with open(os.path.join(ray.init(ignore_reinit_error=True)["session_dir"], "session.json")) as file:
            gcs = json.load(file)["gcs_pid"]
        os.kill(gcs, signal.SIGSTOP)
        refs = [counter.add.remote() for _ in range(50)]
        ready, _ = ray.wait(refs, timeout=1)
        assert not ready, ready
        os.kill(gcs, signal.SIGCONT)
        assert ray.get(refs, timeout=30) == list(range(2, 52))
        os.kill(ray.get(counter.pid.remote()), signal.SIGKILL)
        assert ray.get(counter.add.remote(), timeout=30) == 52
        print("good")
    """
    assert run_driver(script).stdout == "good\n"


# ------------------------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"durable": True, "max_concurrency": 2}, "max_concurrency"),
        ({"durable": True, "concurrency_groups": {"io": 1}}, "concurrency_groups"),
        ({"durable": True, "allow_out_of_order_execution": True}, "allow_out_of_order_execution"),
        ({"durable": True, "checkpoint_every": 0}, "positive"),
        ({"durable": True, "checkpoint_interval_s": -1.0}, "positive"),
        ({"checkpoint_every": 5}, "durable=True"),
        ({"checkpoint_interval_s": 5}, "durable=True"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        ray.remote(**options)(Ledger)
    later = {name: value for name, value in options.items() if name != "concurrency_groups"}
    if later != {"durable": True}:
        with pytest.raises(ValueError, match=words):
            ray.remote(Ledger).options(**later)


def test_contradictions_between_decorator_and_options():
    with pytest.raises(ValueError, match="max_concurrency"):
        ray.remote(max_concurrency=3)(Ledger).options(durable=True)
    with pytest.raises(ValueError, match="max_concurrency"):
        ray.remote(durable=True)(Ledger).options(max_concurrency=3)
    with pytest.raises(TypeError, match="durable"):
        ray.remote(durable="yes")(Ledger)


def test_classes_that_do_not_fit():
    class Async:
        async def f(self):
            pass

    class Generates:
        def f(self):
            yield 1

    class Half:
        def __ray_save__(self):
            pass

    for cls, words in [(Async, "async"), (Generates, "generator"), (Half, "__ray_restore__")]:
        with pytest.raises(ValueError, match=words):
            ray.remote(durable=True)(cls)
        with pytest.raises(ValueError, match=words):
            ray.remote(cls).options(durable=True)


def test_calls_that_do_not_fit():
    actor = durable().remote()
    with pytest.raises(ValueError, match="num_returns"):
        actor.read.options(num_returns="streaming")
