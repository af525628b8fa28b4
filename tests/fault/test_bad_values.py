"""Values that misbehave while they are stored, views that outlive everything: an error or a value, never a fault."""

import gc
import threading

import numpy as np
import pytest
from under_test import ray, ray_rs_only, run_driver, wait_until

MIB = 2**20


def in_store() -> int:
    """How many objects lie in the store."""
    from ray_rs._core import store_objects

    return len(store_objects())


class FailsHalfWay:
    """Its first attribute pickles (an array, out of band, and references), its second one does not."""

    def __init__(self, refs):
        self.large = np.ones(MIB, dtype=np.uint8)
        self.refs = refs

    def __reduce__(self):
        return FailsHalfWay, (self.large, self.refs, Refuses())


class Refuses:
    def __reduce__(self):
        raise RuntimeError("not this one")


@ray_rs_only("looks at the store's own accounts")
def test_pickling_that_fails_half_way_leaves_nothing(no_cluster):
    ray.init(num_cpus=1, object_store_memory=80 * MIB, include_dashboard=False)
    inner = [ray.put(np.ones(MIB, dtype=np.uint8)) for _ in range(3)]

    @ray.remote
    def take(value):
        return value

    @ray.remote
    def give():
        return FailsHalfWay([ray.put(np.ones(MIB, dtype=np.uint8))])

    for _ in range(200):
        with pytest.raises((TypeError, RuntimeError)):
            ray.put(FailsHalfWay(inner))
        with pytest.raises((TypeError, RuntimeError)):
            take.remote(FailsHalfWay(inner))
    for _ in range(20):
        with pytest.raises((TypeError, RuntimeError)):
            ray.get(give.remote())
    gc.collect()
    assert all(ray.get(ref).sum() == MIB for ref in inner)
    wait_until(lambda: in_store() == 3, "only what is referenced to stay")
    inner.clear()
    wait_until(lambda: in_store() == 0, "the rest to go")


class Grower:
    """Changes the buffer that is being stored while it is pickled."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __reduce__(self):
        self.buffer.extend(b"x" * 1_000_000)
        return len, ((1, 2),)


def test_buffers_that_change_size_meanwhile(no_cluster):
    """What is stored was there at some moment; a buffer that is lent out cannot be resized, as Python has it."""
    ray.init(num_cpus=1, object_store_memory=80 * MIB, include_dashboard=False)
    buffer = bytearray(b"a" * 2_000_000)
    value = ray.get(ray.put([buffer, Grower(buffer)]))
    assert value[1] == 2 and value[0][:2_000_000] == b"a" * 2_000_000
    stop = threading.Event()

    def resize():
        while not stop.is_set():
            try:
                buffer.extend(b"b" * 100_000)
                del buffer[1_000_000:]
            except BufferError:
                pass

    thread = threading.Thread(target=resize)
    thread.start()
    try:
        for _ in range(100):
            stored = ray.get(ray.put(buffer))
            assert set(stored) <= set(b"ab")
    finally:
        stop.set()
        thread.join()


def test_arrays_that_are_written_to_while_they_are_stored(no_cluster):
    ray.init(num_cpus=1, object_store_memory=200 * MIB, include_dashboard=False)
    array = np.zeros(20 * MIB, dtype=np.uint8)
    stop = threading.Event()

    def write():
        value = 0
        while not stop.is_set():
            value = (value + 1) % 4
            array[:] = value

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(10):
            assert int(ray.get(ray.put(array)).max()) < 4
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("size", [100, 20 * MIB, 90 * MIB])
def test_views_outlive_the_session(no_cluster, size):
    """Of a small value, of a large one, and of more than the store holds."""
    ray.init(num_cpus=1, object_store_memory=100 * MIB, include_dashboard=False)
    refs = [ray.put(np.full(size, i, dtype=np.uint8)) for i in range(3)]
    views = ray.get(refs)
    parts = [view[size // 2 :] for view in views]
    ray.shutdown()
    assert all((view == i).all() for i, view in enumerate(views))
    ray.init(num_cpus=1, object_store_memory=100 * MIB, include_dashboard=False)
    again = ray.get(ray.put(views[2]))
    del views
    assert all((part == i).all() for i, part in enumerate(parts)) and (again == 2).all()
    ray.shutdown()
    assert (again == 2).all()


@ray_rs_only("`ray.empty` is ray_rs's own")
def test_memory_that_is_filled_after_the_session(no_cluster):
    ray.init(num_cpus=1, object_store_memory=100 * MIB, include_dashboard=False)
    array = ray.empty(10 * MIB, np.uint8)
    ray.shutdown()
    array[:] = 7
    assert (array == 7).all()
    ray.init(num_cpus=1, object_store_memory=100 * MIB, include_dashboard=False)
    assert (ray.get(ray.put(array)) == 7).all()


def test_views_at_the_interpreters_end():
    """Nothing crashes when the session ends before the views do, or at the same time."""
    done = run_driver(
        """
        import os
        import numpy as np
        ray.init(num_cpus=1, object_store_memory=100 * 2**20)
        refs = [ray.put(np.full(5 * 2**20, i, dtype=np.uint8)) for i in range(40)]
        views = ray.get(refs)

        class AtTheEnd:
            def __init__(self, views):
                self.views = views

            def __del__(self, write=os.write):
                # Not even numpy works any more.
                if all(view[0] == view[-1] == i for i, view in enumerate(self.views)):
                    write(1, b"still there")

        last = AtTheEnd(views)
        del refs
        """
    )
    assert done.stdout.strip() == "still there" and "Error" not in done.stderr
