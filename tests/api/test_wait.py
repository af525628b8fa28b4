"""`ray.wait`: which refs are ready, in which order, until when."""

import time

import pytest
from under_test import ray

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def tiny(i):
    return i


@ray.remote
def sleep(seconds):
    time.sleep(seconds)


@ray.remote
def fail():
    raise ValueError


def test_at_most_num_returns_in_input_order():
    refs = [ray.put(i) for i in range(3)]
    ray.get(refs)  # Ray takes a moment to see a fresh put
    assert ray.wait(refs) == ([refs[0]], refs[1:])
    assert ray.wait(refs, num_returns=2) == (refs[:2], refs[2:])
    assert ray.wait(refs, num_returns=4 / 2) == (refs[:2], refs[2:])
    assert ray.wait(refs[::-1], num_returns=3) == (refs[::-1], [])
    assert ray.wait([]) == ([], [])
    assert ray.wait([], num_returns=5) == ([], [])


def test_timeouts():
    slow, done = sleep.remote(2), ray.put(1)
    assert ray.wait([slow, done], num_returns=2, timeout=0) == ([done], [slow])
    began = time.monotonic()
    assert ray.wait([slow], timeout=0.2) == ([], [slow])
    assert time.monotonic() - began >= 0.2
    assert ray.wait([slow, done]) == ([done], [slow])
    assert ray.wait([slow]) == ([slow], [])


def test_an_error_counts_as_ready():
    ref = fail.remote()
    assert ray.wait([ref], timeout=20) == ([ref], [])
    with pytest.raises(ValueError):
        ray.get(ref)


def test_one_by_one():
    waiting = [tiny.remote(i) for i in range(1000)]
    order = {ref: i for i, ref in enumerate(waiting)}
    seen = []
    while waiting:
        (ready,), rest = ray.wait(waiting)
        assert rest == [ref for ref in waiting if ref != ready]
        seen.append(order[ready])
        waiting = rest
    assert sorted(seen) == list(range(1000))


def test_as_results_come_in():
    """The quick one is handed out while the slow one runs."""
    slow, quick = sleep.remote(1.5), tiny.remote(1)
    ready, rest = ray.wait([slow, quick], num_returns=1)
    assert (ready, rest) == ([quick], [slow])
    assert ray.wait(rest, timeout=30) == ([slow], [])


def test_inside_a_task():
    @ray.remote
    def outer():
        refs = [tiny.remote(i) for i in range(20)]
        got = []
        while refs:
            ready, refs = ray.wait(refs, num_returns=min(3, len(refs)), timeout=20)
            got += ray.get(ready)
        return sorted(got)

    assert ray.get(outer.remote()) == list(range(20))


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (TypeError, lambda ref: ray.wait(ref)),
        (TypeError, lambda ref: ray.wait((ref,))),
        (TypeError, lambda ref: ray.wait([ref, 1])),
        (ValueError, lambda ref: ray.wait([ref, ref])),
        (ValueError, lambda ref: ray.wait([ref], num_returns=0)),
        (ValueError, lambda ref: ray.wait([ref], num_returns=2)),
        (ValueError, lambda ref: ray.wait([ref], timeout=-1)),
    ],
    ids=["ref", "tuple", "int-inside", "duplicate", "zero", "too-many", "negative-timeout"],
)
def test_bad_arguments(error, call):
    with pytest.raises(error):
        call(ray.put(1))
