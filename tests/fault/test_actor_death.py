"""An actor's process dies: waiting and later calls learn it at once."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from under_test import exceptions, ray, ray_rs_only

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Actor:
    def pid(self):
        return os.getpid()

    def sleep(self):
        time.sleep(1000)

    def leave(self):
        os._exit(7)

    def echo(self, x):
        return x


@pytest.mark.parametrize("kind", ["plain", "threaded"])
def test_killed_from_outside(kind):
    actor = Actor.options(max_concurrency=4 if kind == "threaded" else 1).remote()
    pid = ray.get(actor.pid.remote())
    waiting = [actor.sleep.remote() for _ in range(3)] + [actor.echo.remote(1) for _ in range(3)]
    if kind == "threaded":
        ray.get(waiting[3:])
        waiting = waiting[:3]
    os.kill(pid, signal.SIGKILL)
    for ref in [*waiting, actor.echo.remote(2)]:
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(ref, timeout=30)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(actor.echo.remote(3), timeout=30)


def test_it_ends_itself():
    actor = Actor.remote()
    with pytest.raises(exceptions.ActorDiedError) as raised:
        ray.get(actor.leave.remote(), timeout=30)
    assert raised.value.actor_id == actor._actor_id.hex()
    assert not raised.value.actor_init_failed
    assert isinstance(raised.value, exceptions.RayActorError)


@ray_rs_only("Ray's text has no exit code")
def test_the_error_says_how():
    actor = Actor.remote()
    with pytest.raises(exceptions.ActorDiedError, match="7") as raised:
        ray.get(actor.leave.remote(), timeout=30)
    assert "Actor" in str(raised.value)
    other = Actor.remote()
    os.kill(ray.get(other.pid.remote()), signal.SIGSEGV)
    with pytest.raises(exceptions.ActorDiedError, match="SIGSEGV"):
        ray.get(other.echo.remote(1), timeout=30)


def test_a_borrower_of_the_handle_learns_it_too():
    @ray.remote
    def use(handle):
        try:
            ray.get(handle.sleep.remote(), timeout=60)
        except exceptions.ActorDiedError:
            return "learned"

    actor = Actor.remote()
    pid = ray.get(actor.pid.remote())
    ref = use.remote(actor)
    ray.wait([ref], timeout=0.5)
    os.kill(pid, signal.SIGKILL)
    assert ray.get(ref, timeout=30) == "learned"


def test_every_waiting_thread_learns_it():
    """Whichever of them reads the lanes: those that sleep behind it are told as well."""
    actor, other = Actor.remote(), Actor.remote()
    pid = ray.get(actor.pid.remote())
    ray.get(other.echo.remote(1))

    def wait(i):
        handle = actor if i % 4 else other
        try:
            return ray.get(handle.sleep.remote() if i % 4 else handle.echo.remote(i), timeout=60)
        except exceptions.ActorDiedError:
            return "died"

    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(wait, i) for i in range(12)]
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        assert [future.result() for future in waiting] == ["died" if i % 4 else i for i in range(12)]


def test_results_from_before_its_death_are_still_there():
    actor = Actor.remote()
    refs = [actor.echo.remote(i) for i in range(50)]
    large = actor.echo.remote(b"x" * 1_000_000)
    assert ray.get(refs) == list(range(50))
    ray.wait([large], timeout=30)
    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
    assert ray.get(refs) == list(range(50))
    assert ray.get(large) == b"x" * 1_000_000


def test_it_dies_while_it_is_constructed():
    @ray.remote
    class Stillborn:
        def __init__(self):
            os._exit(1)

        def f(self):
            return 1

    stillborn = Stillborn.remote()
    with pytest.raises(exceptions.RayActorError):
        ray.get(stillborn.f.remote(), timeout=30)
