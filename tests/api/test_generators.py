"""Remote generators: items come while the producer runs, errors in their place, and nothing is left behind."""

import asyncio
import os
import time

import pytest
from under_test import exceptions, ray, ray_rs_only, wait_until

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def session():
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote
def count(n, fail_at=None):
    for i in range(n):
        if i == fail_at:
            raise KeyError(i)
        yield i


@ray.remote(num_cpus=0)
class Gate:
    def __init__(self):
        self.opened = 0
        self.passed = 0

    def open(self):
        self.opened += 1

    def is_open(self, number):
        return self.opened > number

    def pass_(self):
        self.passed += 1

    def count(self):
        return self.passed


@ray.remote
def gated(gate, n):
    for i in range(n):
        while not ray.get(gate.is_open.remote(i)):
            time.sleep(0.01)
        yield i


def values(generator):
    return [ray.get(ref) for ref in generator]


def test_all_items_in_order_and_then_the_end():
    generator = count.remote(5)
    assert isinstance(generator, ray.ObjectRefGenerator)
    assert iter(generator) is generator
    assert values(generator) == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(generator)
    assert values(count.remote(0)) == []


def test_items_are_there_while_the_producer_runs():
    gate = Gate.remote()
    generator = gated.remote(gate, 3)
    for i in range(3):
        assert ray.wait([generator], timeout=0)[0] == []
        ray.get(gate.open.remote())
        ref = next(generator)
        assert isinstance(ref, ray.ObjectRef)
        assert ray.get(ref) == i
    assert ray.get(generator.completed(), timeout=30) is None
    assert values(generator) == []
    assert generator.is_finished()


def test_an_error_stands_where_it_was_raised():
    generator = count.remote(5, fail_at=2)
    refs = list(generator)
    assert ray.get(refs[:2]) == [0, 1]
    assert len(refs) == 3
    with pytest.raises(KeyError):
        ray.get(refs[2])
    with pytest.raises(KeyError):
        ray.get(generator.completed())


def test_what_generators_can_and_cannot():
    generator = count.remote(2)
    assert ray.get(generator) is generator
    assert ray.wait([generator], timeout=30) == ([generator], [])
    wait_until(generator.next_ready, "the first item")
    assert not generator.is_finished()
    for name in ("send", "throw"):
        with pytest.raises(NotImplementedError):
            getattr(generator, name)(None)
    with pytest.raises(NotImplementedError):
        generator.close()
    with pytest.raises(TypeError, match="generator"):
        ray.put(generator)
    with pytest.raises(TypeError, match="generator"):
        count.remote(generator)
    assert values(generator) == [0, 1]


def test_large_items_and_references_inside():
    import numpy as np

    @ray.remote
    def arrays(n):
        for i in range(n):
            yield {"array": np.full(100_000, i), "ref": ray.put(i)}

    for i, ref in enumerate(arrays.remote(4)):
        item = ray.get(ref)
        assert item["array"].sum() == 100_000 * i
        assert ray.get(item["ref"]) == i


def test_methods_of_actors_of_each_kind():
    @ray.remote
    class Plain:
        def items(self, n):
            yield from range(n)

        def echo(self, x):
            return x

    @ray.remote
    class Asynchronous:
        async def items(self, n):
            for i in range(n):
                await asyncio.sleep(0)
                yield i

        def plain(self, n):
            yield from range(n)

        async def fails(self):
            yield 1
            raise KeyError("late")

    plain = Plain.remote()
    first, second = plain.items.remote(3), plain.items.remote(2)
    assert (values(second), values(first)) == ([0, 1], [0, 1, 2])
    assert ray.get(plain.echo.remote(7)) == 7
    threaded = Plain.options(max_concurrency=3).remote()
    assert [values(generator) for generator in [threaded.items.remote(3) for _ in range(5)]] == [[0, 1, 2]] * 5
    asynchronous = Asynchronous.remote()
    assert values(asynchronous.items.remote(4)) == [0, 1, 2, 3]
    assert values(asynchronous.plain.remote(3)) == [0, 1, 2]
    refs = list(asynchronous.fails.remote())
    assert ray.get(refs[0]) == 1
    with pytest.raises(KeyError):
        ray.get(refs[1])


def test_an_asynchronous_generator_as_a_task_and_as_a_consumer():
    @ray.remote
    async def slow(n):
        for i in range(n):
            await asyncio.sleep(0.01)
            yield i

    async def consume():
        return [await ref async for ref in slow.remote(4)]

    assert values(slow.remote(3)) == [0, 1, 2]
    assert asyncio.run(consume()) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["task", "actor", "async actor"])
def test_backpressure(kind):
    gate = Gate.remote()
    limit = {"_generator_backpressure_num_objects": 2}

    @ray.remote
    def items(gate, n):
        for i in range(n):
            ray.get(gate.pass_.remote())
            yield i

    @ray.remote
    class Actor:
        @ray.method(**limit)
        def items(self, gate, n):
            for i in range(n):
                ray.get(gate.pass_.remote())
                yield i

    @ray.remote
    class AsyncActor:
        @ray.method(**limit)
        async def items(self, gate, n):
            for i in range(n):
                await gate.pass_.remote()
                yield i

    actor = {"actor": Actor, "async actor": AsyncActor}.get(kind)
    remote = items.options(**limit).remote if actor is None else actor.remote().items.remote
    generator = remote(gate, 6)
    for taken in range(4):
        wait_until(lambda taken=taken: ray.get(gate.count.remote()) >= taken + 2, "the producer to run ahead")
        assert ray.get(gate.count.remote()) == taken + 2
        assert ray.get(next(generator)) == taken
    assert values(generator) == [4, 5]


def test_a_consumer_that_leaves_does_not_stop_the_producer():
    gate = Gate.remote()

    @ray.remote(_generator_backpressure_num_objects=1)
    def items(gate):
        for i in range(5):
            ray.get(gate.pass_.remote())
            yield i

    generator = items.remote(gate)
    next(generator)
    del generator
    wait_until(lambda: ray.get(gate.count.remote()) == 5, "the producer to end")


def test_cancelled_in_the_middle():
    gate = Gate.remote()
    generator = gated.remote(gate, 1000)
    ray.get(gate.open.remote())
    first = next(generator)
    ray.cancel(generator)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(next(generator))
    assert ray.get(first) == 0
    assert list(generator) == []


def test_a_producer_that_dies_starts_again_and_repeats_nothing(tmp_path):
    @ray.remote(max_retries=1)
    def items(marker):
        for i in range(5):
            if i == 3 and not os.path.exists(marker):
                open(marker, "w").close()
                os._exit(1)
            yield i

    assert values(items.remote(str(tmp_path / "died"))) == [0, 1, 2, 3, 4]

    @ray.remote(max_retries=0)
    def dies():
        yield 1
        os._exit(1)

    generator = dies.remote()
    assert ray.get(next(generator)) == 1
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(next(generator))


def test_a_fixed_number_of_returns():
    @ray.remote(num_returns=3)
    def three():
        yield from "abc"

    assert ray.get(three.remote()) == ["a", "b", "c"]


def test_options():
    @ray.remote
    def plain():
        return 1

    with pytest.raises(ValueError, match="generator"):
        plain.options(num_returns="streaming")
    with pytest.raises(ValueError, match="backpressure"):
        count.options(_generator_backpressure_num_objects=0)


@pytest.mark.parametrize("size", [1, 300_000])
def test_what_a_generator_with_a_fixed_number_has_given_stays(size):
    @ray.remote(max_retries=0)
    def count(n, fail):
        for i in range(n):
            yield bytes([i]) * size
        if fail:
            raise KeyError("after the last")

    one, two, three = count.options(num_returns=3).remote(1, True)
    assert ray.get(one) == bytes(size)
    for ref in (two, three):
        with pytest.raises(KeyError):
            ray.get(ref)
    one, two, three = count.options(num_returns=3).remote(2, False)
    assert ray.get([one, two]) == [bytes(size), b"\1" * size]
    with pytest.raises(ValueError, match="Task returned 2 objects, but num_returns=3"):
        ray.get(three)
    # Every return has its value: what comes then can only be told of in the worker's log.
    assert len(ray.get(count.options(num_returns=2).remote(2, True))) == 2
    assert len(ray.get(count.options(num_returns=2).remote(4, False))) == 2


def test_one_return_is_what_the_generator_has_yielded_first():
    @ray.remote
    class Source:
        def items(self, n):
            yield from range(n)

    one = count.options(num_returns=1, max_retries=0)
    assert ray.get(one.remote(1)) == 0
    assert ray.get(one.remote(2)) == 0
    with pytest.raises(ValueError, match="Task returned 0 objects, but num_returns=1"):
        ray.get(one.remote(0))
    with pytest.raises(KeyError):
        ray.get(one.remote(3, fail_at=0))
    assert ray.get(Source.remote().items.options(num_returns=1).remote(1)) == 0


def test_a_method_with_a_fixed_number_that_fails_half_way():
    @ray.remote
    class Source:
        def items(self):
            yield 1
            raise KeyError("half-way")

    one, two = Source.remote().items.options(num_returns=2).remote()
    assert ray.get(one) == 1
    with pytest.raises(KeyError):
        ray.get(two)


# ------------------------------------------------------------------------------------------------ num_returns="dynamic"


def test_dynamic_gives_all_references_at_the_end():
    ref = count.options(num_returns="dynamic").remote(3)
    assert isinstance(ref, ray.ObjectRef)
    generator = ray.get(ref)
    assert isinstance(generator, ray.DynamicObjectRefGenerator)
    assert len(generator) == 3
    assert values(generator) == values(generator) == [0, 1, 2]  # as often as wanted


def test_dynamic_generators_travel():
    @ray.remote
    def total(generator):
        return sum(ray.get(list(generator)))

    ref = count.options(num_returns="dynamic").remote(4)
    assert ray.get(total.remote(ref)) == 6
    assert ray.get(total.remote(ray.get(ref))) == 6


def test_dynamic_error_is_the_last_reference():
    first, error = ray.get(count.options(num_returns="dynamic", max_retries=0).remote(3, fail_at=1))
    assert ray.get(first) == 0
    with pytest.raises(KeyError):
        ray.get(error)


def test_dynamic_error_that_is_retried(tmp_path):
    tried = tmp_path / "tried"

    @ray.remote(max_retries=1, retry_exceptions=[KeyError])
    def once_more():
        yield 1
        if not tried.exists():
            tried.touch()
            raise KeyError("the first time")
        yield 2

    assert values(ray.get(once_more.options(num_returns="dynamic").remote())) == [1, 2]


def test_dynamic_methods():
    @ray.remote
    class Source:
        def items(self, n):
            yield from range(n)

    source = Source.remote()
    assert values(ray.get(source.items.options(num_returns="dynamic").remote(3))) == [0, 1, 2]


def test_dynamic_needs_a_generator_function():
    with pytest.raises(ValueError, match="generator functions"):

        @ray.remote(num_returns="dynamic")
        def plain():
            return 1


@ray_rs_only("Ray stores the first item, and logs an internal error")
def test_a_generator_object_as_a_result_is_refused_with_advice():
    @ray.remote
    def careless(n):
        return (i for i in range(n))

    with pytest.raises(TypeError, match=r"yield from"):
        ray.get(careless.remote(3))
