"""`ray.get`: values, lists, timeouts, and what it refuses."""

import threading
import time

import pytest
from under_test import exceptions, ray, ray_rs_only

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def echo(x):
    return x


@ray.remote
def sleep(seconds, value=None):
    time.sleep(seconds)
    return value


@ray.remote
def fail(text):
    raise ValueError(text)


def test_one_ref_and_lists():
    assert ray.get(ray.put(5)) == 5
    refs = [echo.remote(i) for i in range(20)]
    assert ray.get(refs) == list(range(20))
    assert ray.get([refs[3], refs[3], refs[1]]) == [3, 3, 1]
    assert ray.get([]) == []


@pytest.mark.parametrize("wrong", [(), {}, 5, None, "ref"])
def test_what_is_not_a_ref_or_a_list(wrong):
    with pytest.raises(ValueError, match="Invalid type of object refs"):
        ray.get(wrong)


def test_a_list_with_something_else_in_it():
    with pytest.raises(TypeError, match="Attempting to call `get` on the value"):
        ray.get([ray.put(1), 2])


def test_timeout():
    ref = sleep.remote(1.5, "late")
    began = time.monotonic()
    with pytest.raises(exceptions.GetTimeoutError, match="Get timed out: some object") as raised:
        ray.get(ref, timeout=0.2)
    assert time.monotonic() - began >= 0.2
    assert isinstance(raised.value, TimeoutError)
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get([ray.put(1), ref], timeout=0)
    assert ray.get(ref) == "late"
    assert ray.get(ref, timeout=0) == "late"
    assert ray.get(sleep.remote(0.1, 1), timeout=-1) == 1


@ray_rs_only("a negative timeout other than -1 aborts Ray's process")
def test_negative_timeout():
    with pytest.raises(ValueError, match="timeout"):
        ray.get(ray.put(1), timeout=-5)


def test_an_error_is_raised_without_waiting_for_the_rest():
    slow = sleep.remote(5)
    began = time.monotonic()
    with pytest.raises(ValueError, match="quick"):
        ray.get([slow, fail.remote("quick")])
    assert time.monotonic() - began < 4.5


def test_several_threads_wait_for_one_ref():
    ref = sleep.remote(0.3, "shared")
    results = []
    threads = [threading.Thread(target=lambda: results.append(ray.get(ref))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["shared"] * 6


def test_the_future_of_a_ref():
    assert echo.remote(3).future().result(timeout=20) == 3
    assert isinstance(fail.remote("soon").future().exception(timeout=20), ValueError)


def test_await_in_a_driver():
    import asyncio

    async def main():
        one, two = await asyncio.gather(echo.remote(1), sleep.remote(0.1, 2))
        with pytest.raises(ValueError, match="awaited"):
            await fail.remote("awaited")
        return one, two, await asyncio.wait_for(echo.remote(3), 20)

    assert asyncio.run(main()) == (1, 2, 3)


def test_refs_are_values():
    ref = ray.put(1)
    assert isinstance(ref, ray.ObjectRef)
    assert ray.ObjectRef is ray.ObjectID
    assert len(ref.binary()) == 28
    assert ref.hex() == ref.binary().hex()
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    assert ray.ObjectRef(ref.binary()) == ref
    assert {ref: "x"}[ray.ObjectRef(ref.binary())] == "x"
    assert ref != ray.put(1)
    assert ref.task_id().job_id() == ref.job_id()
    with pytest.raises(TypeError):
        iter(ref)
    with pytest.raises(TypeError):
        _ = ref < ref


def test_a_ref_made_from_its_id():
    ref = ray.put("value")
    again = ray.ObjectRef(bytes.fromhex(ref.hex()))
    del ref
    assert ray.get(again, timeout=20) == "value"
    result = echo.remote(5)
    assert ray.get(ray.ObjectRef(result.binary()), timeout=20) == 5


@ray_rs_only("Ray waits for ever")
def test_a_ref_to_nothing_says_so():
    unknown = ray.ObjectRef(bytes(range(28)))
    with pytest.raises(exceptions.ObjectLostError, match="no object of this id"):
        ray.get(unknown, timeout=20)
    assert ray.wait([unknown], timeout=20) == ([unknown], [])


@pytest.mark.parametrize(
    ("name", "size"),
    [("JobID", 4), ("ActorID", 16), ("TaskID", 24), ("ObjectRef", 28), ("NodeID", 28), ("WorkerID", 28)],
)
def test_ids(name, size):
    kind = getattr(ray, name)
    raw = bytes(range(size))
    one = kind(raw)
    assert one.binary() == raw
    assert one == kind(raw)
    assert hash(one) == hash(kind(raw))
    assert one.hex() == raw.hex()
    assert kind.size() == size
    assert kind.nil().is_nil()
    assert not one.is_nil()
    with pytest.raises(TypeError, match="expected bytes"):
        kind("x")
    with pytest.raises(ValueError, match=f"length {size}"):
        kind(b"x")
