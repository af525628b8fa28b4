"""The actor pool's bookkeeping, on actors that answer at once. No cluster."""

import pytest
from ray_rs.exceptions import ActorDiedError
from ray_rs.util import ActorPool
from ray_rs.util import actor_pool as module


class FakeRay:
    """References are keys of `values`; those in `late` are not ready."""

    def __init__(self):
        self.values = {}
        self.late = set()

    def submit(self, value):
        ref = f"ref{len(self.values)}"
        self.values[ref] = value
        return ref

    def wait(self, refs, num_returns=1, timeout=None):
        ready = [ref for ref in refs if ref not in self.late][:num_returns]
        if not ready and timeout is None:
            ready = refs[:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref):
        value = self.values[ref]
        if isinstance(value, Exception):
            raise value
        return value


@pytest.fixture
def fake(monkeypatch):
    made = FakeRay()
    monkeypatch.setattr(module, "ray", made)
    return made


def test_map_keeps_order(fake):
    pool = ActorPool(["a", "b"])
    seen = []
    results = pool.map(lambda actor, v: (seen.append(actor), fake.submit(v * 2))[1], range(5))
    assert list(results) == [0, 2, 4, 6, 8]
    assert set(seen) == {"a", "b"}
    assert pool.has_free()
    assert not pool.has_next()


def test_unordered_takes_what_is_there(fake):
    pool = ActorPool(["a", "b"])
    for value in range(2):
        pool.submit(lambda actor, v: fake.submit(v), value)
    fake.late.add("ref0")
    assert pool.get_next_unordered() == 1
    with pytest.raises(ValueError, match="get_next_unordered"):
        pool.get_next()
    fake.late.clear()
    assert pool.get_next_unordered() == 0
    with pytest.raises(StopIteration, match="No more results to get"):
        pool.get_next()


def test_ordered_waits_for_an_actor(fake):
    pool = ActorPool(["a"])
    for value in range(3):
        pool.submit(lambda actor, v: fake.submit(v), value)
    assert not pool.has_free()
    assert [pool.get_next() for _ in range(3)] == [0, 1, 2]


def test_timeouts(fake):
    pool = ActorPool(["a"])
    pool.submit(lambda actor, v: fake.submit(v), 1)
    fake.late.add("ref0")
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0)
    assert pool.has_next()
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0, ignore_if_timedout=True)
    assert not pool.has_next()
    assert pool.has_free()


def test_errors_give_the_actor_back_unless_it_is_dead(fake):
    pool = ActorPool(["a", "b"])
    pool.submit(lambda actor, v: fake.submit(KeyError("task")), 0)
    with pytest.raises(KeyError):
        pool.get_next()
    pool.submit(lambda actor, v: fake.submit(ActorDiedError("dead")), 0)
    with pytest.raises(ActorDiedError):
        pool.get_next()
    assert len([pool.pop_idle(), pool.pop_idle()]) == 2
    assert pool.pop_idle() is None


def test_nobody_left(fake):
    pool = ActorPool(["a"])
    pool.submit(lambda actor, v: fake.submit(ActorDiedError("dead")), 0)
    pool.submit(lambda actor, v: fake.submit(1), 0)
    with pytest.raises(ActorDiedError):
        pool.get_next()
    with pytest.raises(RuntimeError, match="All actors of the pool are dead"):
        pool.get_next()


def test_push(fake):
    pool = ActorPool(["a"])
    with pytest.raises(ValueError, match="already belongs"):
        pool.push("a")
    pool.push("b")
    assert {pool.pop_idle(), pool.pop_idle()} == {"a", "b"}
