"""The path between two processes under pressure: large messages, dying readers, computing callers."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from under_test import contents, exceptions, ray, ray_rs_only, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def echo(x):
    return x


@ray.remote
class Echo:
    def echo(self, x):
        return x

    def pid(self):
        return os.getpid()


@pytest.mark.parametrize("kib", [15, 17, 63, 65, 99, 101, 255, 257, 1023, 1025, 5000])
def test_messages_larger_than_a_lane(kib):
    data = os.urandom(1024) * kib
    actor = Echo.remote()
    assert ray.get(echo.remote(data)) == data
    assert ray.get(actor.echo.remote(data)) == data
    # Many small arguments add up to one large message.
    parts = [os.urandom(50_000) for _ in range(max(1, kib // 50))]
    assert ray.get(echo.remote(parts)) == parts


def test_more_than_fits_at_once():
    """The outbound queue overflows while the replies flood back."""
    payload = b"p" * 60_000
    actor = Echo.remote()
    refs = [echo.remote((i, payload)) for i in range(300)] + [actor.echo.remote((i, payload)) for i in range(300)]
    assert [i for i, _ in ray.get(refs)] == [*range(300), *range(300)]


def test_both_sides_flood():
    """Two actors call one another while both lanes are full."""

    @ray.remote(max_concurrency=2)
    class Side:
        def flood(self, other, n):
            return sum(len(x) for x in ray.get([other.echo.remote(b"x" * 50_000) for _ in range(n)]))

        def echo(self, x):
            return x

    one, two = Side.remote(), Side.remote()
    assert ray.get([one.flood.remote(two, 200), two.flood.remote(one, 200)]) == [200 * 50_000] * 2


def test_a_reader_killed_while_it_holds_a_view():
    @ray.remote
    class Reader:
        def hold(self, refs):
            self.view = ray.get(refs[0])
            return os.getpid(), int(self.view[0])

    for i in range(3):
        ref = ray.put(np.full(2_000_000, i))
        reader = Reader.remote()
        pid, first = ray.get(reader.hold.remote([ref]))
        assert first == i
        os.kill(pid, signal.SIGKILL)
        assert (ray.get(ref) == i).all()
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(reader.hold.remote([ref]))
        del ref
    # Its pins are gone with it: the memory is used again.
    for i in range(20):
        assert ray.get(ray.put(np.full(2_000_000, i)))[-1] == i


def test_a_writer_killed_in_the_middle():
    @ray.remote(max_retries=0)
    def write(path):
        Path(path).write_text(str(os.getpid()))
        while True:
            ray.put(np.random.random(1_000_000))

    for i in range(3):
        path = os.path.join(os.environ["RAY_RS_TEST_SCRATCH"], f"writer-{i}")
        ref = write.remote(path)
        pid = wait_until(lambda path=path: contents(path), "the writer to start")
        time.sleep(0.05 * i)
        os.kill(int(pid), signal.SIGKILL)
        with pytest.raises(exceptions.WorkerCrashedError):
            ray.get(ref, timeout=30)
    assert ray.get(echo.remote("fine")) == "fine"


def compute(seconds):
    """Pure computation: nobody in this process is inside the library."""
    end, x = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for i in range(10_000):
            x += i * i
    return x


def test_work_goes_on_while_the_driver_computes(tmp_path):
    @ray.remote
    def f():
        time.sleep(0.3)
        return 1

    @ray.remote
    def g(x):
        (tmp_path / "ran").touch()
        return x + 1

    ref = g.remote(f.remote())
    began = time.time()
    compute(3)
    assert (tmp_path / "ran").exists()
    assert (tmp_path / "ran").stat().st_mtime - began < 2.9
    assert ray.get(ref) == 2


def test_a_long_queue_moves_while_the_driver_computes(tmp_path):
    @ray.remote
    def touch(i):
        time.sleep(0.01)
        if i == 99:
            (tmp_path / "last").touch()

    refs = [touch.remote(i) for i in range(100)]
    compute(4)
    assert (tmp_path / "last").exists()
    ray.get(refs)


def test_borrowers_are_answered_while_the_driver_computes(tmp_path):
    @ray.remote
    def slow():
        time.sleep(0.3)
        return "value"

    @ray.remote
    def read(refs):
        value = ray.get(refs[0])
        (tmp_path / value).touch()
        return value

    ref = read.remote([slow.remote()])
    compute(3)
    assert (tmp_path / "value").exists()
    assert ray.get(ref) == "value"


@ray_rs_only("takes Ray minutes")
def test_a_hundred_thousand_tasks():
    assert sum(ray.get([echo.remote(i) for i in range(100_000)])) == sum(range(100_000))
