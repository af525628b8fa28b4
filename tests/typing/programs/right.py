"""What type checkers must accept, and what they must take it for. Checked by `test_checkers.py`; never run."""

from collections.abc import AsyncIterator, Generator, Iterator

import ray_rs as ray
from ray_rs import ObjectRef, ObjectRefGenerator
from ray_rs.actor import ActorClass, ActorProxy
from typing_extensions import assert_type


@ray.remote
def f(x: int, y: str = "", *, z: float = 1.0) -> bytes:
    return b""


@ray.remote(num_cpus=2, resources={"disk": 1})
def g(x: int) -> list[int]:
    return [x]


@ray.remote
def nothing() -> None: ...


# Calls: the function's parameters, by position and by keyword, each also as a reference.
n: ObjectRef[int] = ray.put(1)
s = ray.put("text")
assert_type(s, ObjectRef[str])
assert_type(f.remote(1), ObjectRef[bytes])
assert_type(f.remote(1, "a", z=2.0), ObjectRef[bytes])
assert_type(f.remote(x=1, y="a"), ObjectRef[bytes])
assert_type(f.remote(n), ObjectRef[bytes])
assert_type(f.remote(n, s), ObjectRef[bytes])
assert_type(f.remote(1, s), ObjectRef[bytes])
assert_type(f.remote(n, y="a", z=1.0), ObjectRef[bytes])
assert_type(g.remote(ray.put(1)), ObjectRef[list[int]])
assert_type(nothing.remote(), ObjectRef[None])

# Options keep types; `num_returns` says what a call gives.
assert_type(f.options(num_cpus=0.5, name="other").remote(1), ObjectRef[bytes])
assert_type(f.options(num_returns=0).remote(1), None)
assert_type(len(f.options(num_returns=2).remote(1)), int)


@ray.remote(num_returns=2)
def two(x: int) -> tuple[int, str]:
    return x, ""


first, second = two.remote(1)


# Generators give references while they run.
@ray.remote
def items(count: int) -> Iterator[str]:
    yield from ("a" for _ in range(count))


@ray.remote
def more_items() -> Generator[int, None, None]:
    yield 1


@ray.remote
async def async_items() -> AsyncIterator[int]:
    yield 1


assert_type(items.remote(3), ObjectRefGenerator[str])
assert_type(more_items.remote(), ObjectRefGenerator[int])
assert_type(async_items.remote(), ObjectRefGenerator[int])
assert_type(next(items.remote(3)), ObjectRef[str])
for item in items.options(num_cpus=0).remote(n):
    assert_type(ray.get(item), str)
for again in ray.get(items.options(num_returns="dynamic").remote(2)):
    assert_type(ray.get(again), str)

# get, wait, and the loops.
assert_type(ray.get(f.remote(1)), bytes)
assert_type(ray.get([g.remote(1), g.remote(2)], timeout=1), list[list[int]])
assert_type(ray.get((n,)), list[int])
ready, rest = ray.wait([n, n], num_returns=1)
assert_type(ready, list[ObjectRef[int]])
assert_type(list(ray.as_completed([n])), list[int])
assert_type(list(ray.as_completed([n], yield_obj_refs=True)), list[ObjectRef[int]])
assert_type(list(ray.map(f, range(3))), list[bytes])
assert_type(list(ray.map(len, ["a"], chunksize=2)), list[int])


async def waiting() -> None:
    assert_type(await f.remote(1), bytes)
    async for each in items.remote(1):
        assert_type(await each, str)


# Actors: the constructor's parameters, and methods under `@ray.method`.
@ray.remote
class Counter:
    def __init__(self, start: int, *, name: str = "") -> None:
        self.n = start

    @ray.method
    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    @ray.method
    async def slowly(self, k: int) -> int:
        return self.add(k)  # on the instance it is a plain method

    @ray.method
    def up_to(self, k: int) -> Iterator[int]:
        yield from range(k)

    @ray.method(num_returns=2)
    def both(self) -> tuple[int, int]:
        return self.n, self.n

    @ray.method(max_task_retries=3)
    def retried(self, k: int) -> str:
        return str(k)


@ray.remote(durable=True, checkpoint_every=10)
class Account:
    def __init__(self) -> None:
        self.balance = 0

    @ray.method
    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def __ray_save__(self) -> int:
        return self.balance

    def __ray_restore__(self, state: int) -> None:
        self.balance = state


assert_type(Account.options(checkpoint_interval_s=5).remote().deposit.remote(1), ObjectRef[int])

counter = Counter.remote(1, name="c")
Counter.remote(n)
Counter.options(name="x", get_if_exists=True, num_cpus=1).remote(2)
assert_type(counter.add.remote(), ObjectRef[int])
assert_type(counter.add.remote(2), ObjectRef[int])
assert_type(counter.add.remote(n), ObjectRef[int])
assert_type(ray.get(counter.add.remote(k=2)), int)
assert_type(counter.slowly.remote(1), ObjectRef[int])
assert_type(counter.up_to.remote(3), ObjectRefGenerator[int])
assert_type(len(counter.both.remote()), int)
assert_type(counter.retried.options(name="r").remote(1), ObjectRef[str])
ray.kill(counter)


class Plain:
    def __init__(self, size: int) -> None: ...

    @ray.method
    def grow(self, by: float) -> float:
        return by


PlainActor = ray.remote(Plain)
assert_type(PlainActor, ActorClass[Plain])
plain = PlainActor.remote(1)
assert_type(plain.grow.remote(1.0), ObjectRef[float])


def use(handle: ActorProxy[Plain]) -> float:
    return ray.get(handle.grow.remote(2.0))


use(plain)
