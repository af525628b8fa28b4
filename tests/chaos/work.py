"""What the cluster is given to do: each unit knows its result beforehand, and says how many tasks and calls it was.

All of it may be done again, so that no death excuses a value that is missing, wrong, or late.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray_rs as ray

MIB = 2**20
# A wait that lasts so long on a machine that is merely busy is a hang.
PATIENCE_S = 120.0


class Lost(Exception):
    """A value that was promised did not come, or is another."""


class Hung(Exception):
    """Something that had to happen did not, within the patience."""


def fetch(refs: Any, what: str) -> Any:
    """The values of a reference or a list of them; a wait that does not end says why."""
    try:
        return ray.get(refs, timeout=PATIENCE_S)
    except ray.exceptions.GetTimeoutError as error:
        refs = refs if isinstance(refs, list) else [refs]
        _, waiting = ray.wait(refs, num_returns=len(refs), timeout=0)
        reasons = {ray.why(ref) for ref in waiting[:5]}
        raise Hung(f"{what}: {len(waiting)} of {len(refs)} did not come: {error}; " + "; ".join(sorted(reasons)))
    except ray.exceptions.RayError as error:
        raise Lost(f"{what}: {type(error).__name__}: {error}") from error


def check(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise Lost(f"{what}: {str(found)[:200]} instead of {str(expected)[:200]}")


# ---- what runs in the cluster ----------------------------------------------------------------------------------------


def pattern(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, size // 8, dtype=np.uint64)


def total(array: np.ndarray) -> int:
    return int(array.sum(dtype=np.uint64))


task = ray.remote(max_retries=-1)


@task
def plus(a: int, b: int, pause: float = 0.0) -> int:
    time.sleep(pause)
    return a + b


@task
def tree(depth: int) -> int:
    return 1 if depth == 0 else sum(ray.get([tree.remote(depth - 1) for _ in range(2)]))


@task
def make(seed: int, size: int) -> np.ndarray:
    return pattern(seed, size)


@task
def shifted(array: np.ndarray, by: int) -> np.ndarray:
    return array + np.uint64(by)


@task
def summed(array: np.ndarray) -> int:
    return total(array)


@task
def through(box: list[Any], depth: int) -> int:
    """Passes a borrowed reference on, a few times, and reads it in the end."""
    if depth:
        return int(ray.get(through.remote(box, depth - 1)))
    return total(ray.get(box[0]))


@task
def count(number: int, size: int) -> Any:
    for i in range(number):
        yield i, bytes([i % 251]) * size


@ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Worker:
    def __init__(self, name: str) -> None:
        self.name = name

    def plus(self, a: int, b: int) -> tuple[str, int]:
        return self.name, a + b

    def read(self, box: list[Any]) -> int:
        return total(ray.get(box[0]))

    def fill(self, seed: int, size: int) -> np.ndarray:
        return pattern(seed, size)

    def count(self, number: int) -> Any:
        yield from range(number)


# ---- the units ----------------------------------------------------------------------------------------------------


def plain_tasks(chance: random.Random) -> int:
    numbers = [chance.randrange(1000) for _ in range(200)]
    refs = [plus.remote(i, number, 0.002 * (i % 3)) for i, number in enumerate(numbers)]
    check(fetch(refs, "plain tasks"), [i + number for i, number in enumerate(numbers)], "plain tasks")
    return len(refs)


def chains(chance: random.Random) -> int:
    length = 20
    start = chance.randrange(1000)
    ref = plus.remote(start, 0)
    for i in range(length):
        ref = plus.remote(ref, i)
    check(fetch(ref, "a chain"), start + sum(range(length)), "a chain")
    return length + 1


def trees(_: random.Random) -> int:
    check(fetch(tree.remote(4), "a tree"), 16, "a tree")
    return 31


def large_values(chance: random.Random) -> int:
    """Made, changed twice, and read elsewhere and here; whatever node had them."""
    seeds = [chance.randrange(2**30) for _ in range(4)]
    size = chance.choice([1, 2, 4]) * MIB
    made = [make.remote(seed, size) for seed in seeds]
    changed = [shifted.remote(shifted.remote(ref, 1), 2) for ref in made]
    expected = [total(pattern(seed, size) + np.uint64(3)) for seed in seeds]
    check(fetch([summed.remote(ref) for ref in changed], "sums of large values"), expected, "sums of large values")
    for ref, value in zip(changed, expected, strict=True):
        check(total(fetch(ref, "a large value")), value, "a large value")
    return 5 * len(seeds)


def spilling(chance: random.Random) -> int:
    """More than a store holds, kept all at once, and read in another order."""
    seeds = [chance.randrange(2**30) for _ in range(24)]
    put = {seed: ray.put(pattern(seed, 4 * MIB)) for seed in seeds[:6]}
    refs = put | {seed: make.remote(seed, 4 * MIB) for seed in seeds[6:]}
    chance.shuffle(seeds)
    for seed in seeds:
        check(total(fetch(refs[seed], "a spilled value")), total(pattern(seed, 4 * MIB)), "a spilled value")
    return len(seeds)


def generators(chance: random.Random) -> int:
    number, size = 30, chance.choice([10, 5000, 60_000])
    items = [fetch(ref, "an item of a generator") for ref in count.remote(number, size)]
    check([i for i, _ in items], list(range(number)), "items of a generator")
    check([len(data) for _, data in items], [size] * number, "lengths of a generator's items")
    return number


def borrowed(chance: random.Random) -> int:
    seed = chance.randrange(2**30)
    expected = total(pattern(seed, MIB))
    reader = Worker.remote("reader")
    for ref in (ray.put(pattern(seed, MIB)), make.remote(seed, MIB)):
        check(fetch(through.remote([ref], 3), "a borrowed reference"), expected, "a borrowed reference")
        check(fetch(reader.read.remote([ref]), "an actor's borrowed one"), expected, "an actor's borrowed one")
    ray.kill(reader)
    return 11


def actors(chance: random.Random) -> int:
    """Made, called, restarted as often as need be, and killed or let go."""
    made = [Worker.remote(f"actor {i}") for i in range(3)]
    calls = [(i % 3, chance.randrange(1000)) for i in range(90)]
    refs = [made[who].plus.remote(who, number) for who, number in calls]
    check(fetch(refs, "calls"), [(f"actor {who}", who + number) for who, number in calls], "calls")
    seed = chance.randrange(2**30)
    check(total(fetch(made[0].fill.remote(seed, 80_000), "a call's array")), total(pattern(seed, 80_000)), "an array")
    counting = made[1].count.options(num_returns="streaming").remote(10)
    check([fetch(ref, "an actor's item") for ref in counting], list(range(10)), "an actor's items")
    if chance.random() < 0.5:
        for actor in made:
            ray.kill(actor)
    return len(calls) + 11


def named_actors(chance: random.Random) -> int:
    name = f"named {chance.randrange(2**60)}"
    actor = Worker.options(name=name).remote(name)
    check(fetch(actor.plus.remote(1, 2), "a named actor"), (name, 3), "a named actor")
    try:
        again = ray.get_actor(name)
    except (ValueError, ray.exceptions.RayError) as error:
        raise Lost(f"a name that was acknowledged: {type(error).__name__}: {error}") from error
    check(fetch(again.plus.remote(3, 4), "a named actor again"), (name, 7), "a named actor again")
    ray.kill(actor)
    return 2


UNITS: dict[str, tuple[int, Callable[[random.Random], int]]] = {
    "tasks": (4, plain_tasks),
    "chains": (2, chains),
    "trees": (2, trees),
    "large values": (3, large_values),
    "spilling": (1, spilling),
    "generators": (2, generators),
    "borrowed references": (2, borrowed),
    "actors": (3, actors),
    "named actors": (2, named_actors),
}


def some_unit(chance: random.Random) -> str:
    names = list(UNITS)
    return chance.choices(names, weights=[UNITS[name][0] for name in names])[0]
