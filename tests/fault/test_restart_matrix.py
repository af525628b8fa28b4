"""`max_restarts` times `max_task_retries`: an actor's process that dies before, in, and again in a call."""

import os
import signal

import pytest
from under_test import contents, exceptions, ray, wait_until

pytestmark = pytest.mark.usefixtures("cluster")

PATIENCE = 50


@ray.remote
class Fragile:
    def __init__(self, lives):
        append(lives)

    def pid(self):
        return os.getpid()

    def die(self, calls, times):
        """Dies in its first `times` calls, however many processes that takes."""
        append(calls)
        if len(contents(calls)) <= times:
            os._exit(1)
        return "done"


def append(path):
    with open(path, "a") as file:
        file.write("x")


def outcome(ref):
    try:
        return ray.get(ref, timeout=PATIENCE)
    except exceptions.RayActorError as error:
        return type(error).__name__


def start(tmp_path, restarts, retries):
    return Fragile.options(max_restarts=restarts, max_task_retries=retries).remote(tmp_path / "lives")


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


RESTARTS = pytest.mark.parametrize("restarts", [0, 1, -1])
RETRIES = pytest.mark.parametrize("retries", [0, 1, -1])


@RESTARTS
@RETRIES
def test_it_dies_between_calls(restarts, retries, tmp_path):
    actor = start(tmp_path, restarts, retries)
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid), "the process to end")
    if restarts == 0:
        assert outcome(actor.pid.remote()) == "ActorDiedError"
        return
    # A call that reached the old process before anybody knew may be lost, unless it is made again.
    answers = wait_until(
        lambda: [answer for answer in [outcome(actor.pid.remote())] if retries or answer != "ActorUnavailableError"],
        "the actor to be back",
    )
    assert isinstance(answers[0], int)
    assert answers[0] != pid
    assert contents(tmp_path / "lives") == "xx"


@RESTARTS
@RETRIES
@pytest.mark.parametrize("deaths", [1, 2])
def test_it_dies_in_a_call(restarts, retries, deaths, tmp_path):
    actor = start(tmp_path, restarts, retries)
    found = outcome(actor.die.remote(tmp_path / "calls", deaths))

    lives = deaths if restarts < 0 else min(restarts, deaths)  # that it has beside the first
    tries = deaths if retries < 0 else min(retries, deaths)
    attempts = 1 + min(lives, tries)
    expected = "done" if attempts > deaths else "ActorUnavailableError" if lives >= attempts else "ActorDiedError"
    assert found == expected
    assert len(contents(tmp_path / "calls")) == attempts


@pytest.mark.parametrize("ends", [("die", "raise"), ("raise", "die")])
@pytest.mark.parametrize("kind", ["plain", "threaded", "async"])
def test_deaths_and_errors_use_the_same_retries(kind, ends, tmp_path):
    def end(number):
        append(tmp_path / "calls")
        calls = len(contents(tmp_path / "calls"))
        if calls > number:
            return calls
        if ends[(calls - 1) % 2] == "die":
            os._exit(1)
        raise KeyError(calls)

    @ray.remote(max_restarts=-1)
    class Plain:
        def call(self, number):
            return end(number)

    @ray.remote(max_restarts=-1)
    class Async:
        async def call(self, number):
            return end(number)

    cls = Async if kind == "async" else Plain.options(max_concurrency=2 if kind == "threaded" else 1)
    actor = cls.remote()
    call = actor.call.options(max_task_retries=2, retry_exceptions=[KeyError])
    assert ray.get(call.remote(2), timeout=PATIENCE) == 3
    os.remove(tmp_path / "calls")
    last = {"raise": exceptions.ActorUnavailableError, "die": KeyError}[ends[1]]
    with pytest.raises(last):
        ray.get(call.remote(9), timeout=PATIENCE)
    assert contents(tmp_path / "calls") == "xxx"


def test_a_call_that_is_tried_again_goes_before_one_that_waits_for_it(tmp_path):
    @ray.remote
    class Actor:
        def first(self, gate):
            append(tmp_path / "calls")
            wait_until(gate.exists, "the gate")
            if contents(tmp_path / "calls") == "x":
                raise KeyError
            return "first"

        def second(self, before):
            return [before, "second"]

    actor = Actor.remote()
    first = actor.first.options(max_task_retries=1, retry_exceptions=True).remote(tmp_path / "gate")
    second = actor.second.remote(first)
    (tmp_path / "gate").touch()
    assert ray.get(second, timeout=PATIENCE) == ["first", "second"]
