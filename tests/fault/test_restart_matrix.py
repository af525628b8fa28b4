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
