"""What the cluster is given to do: each unit knows its result beforehand, and says how many tasks and calls it was.

All of it may be done again, so that no death excuses a value that is missing, wrong, or late.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray_rs as ray
from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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


def own(seed: int, puts: bool) -> tuple[int, list[Any]]:
    """References to objects of the process that runs this, of every kind that outlives it, and its pid.

    Which values they have `owned` says. Large values that were put, and what was made of them, are only among them
    where the node does not die: no copy of them is anywhere else.
    """
    ended = plus.remote(seed, 1)
    items = list(count.remote(3, 100))
    ray.wait([ended, *items], num_returns=4)
    waits = plus.remote(seed, 2, 0.2)
    refs = [
        ray.put(seed),
        ended,
        waits,
        plus.remote(plus.remote(waits, ray.put(3)), 4, 0.1),
        make.remote(seed, MIB),
        *items,
    ]
    if puts:
        large = ray.put(pattern(seed, MIB))
        refs += [large, summed.remote(large), shifted.remote(shifted.remote(large, 1), 2)]
    return os.getpid(), refs


def owned(seed: int, puts: bool) -> list[Any]:
    """What the references of `own` are to give, as `plainly` says it."""
    array = pattern(seed, MIB)
    values = [seed, seed + 1, seed + 2, seed + 9, total(array), *((i, bytes([i]) * 100) for i in range(3))]
    return values + ([total(array), total(array), total(array + np.uint64(3))] if puts else [])


def plainly(values: list[Any]) -> list[Any]:
    return [total(value) if isinstance(value, np.ndarray) else value for value in values]


@task
def owning_task(seed: int, puts: bool) -> tuple[int, list[Any]]:
    return own(seed, puts)


@ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Owner:
    def give(self, seed: int, puts: bool) -> tuple[int, list[Any]]:
        return own(seed, puts)


@ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
class Holder:
    """Has references of others for as long as a call lasts, which is made again wherever it starts anew."""

    def read(self, refs: list[Any], pause: float) -> list[Any]:
        time.sleep(pause)
        return plainly(ray.get(refs))

    def hand_on(self, other: Any, refs: list[Any], pause: float) -> list[Any]:
        reading = other.read.remote(refs, pause)
        del refs
        return list(ray.get(reading))


@ray.remote(durable=True, num_cpus=0)
class Account:
    def __init__(self) -> None:
        self.balance = 0

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def pid(self) -> int:
        return os.getpid()


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


def kill_process(pid: int) -> None:
    """Kills a process of the cluster, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def outliving(chance: random.Random) -> int:
    """`FT-4`: an owner is killed while a driver, an actor, or one that has it from an actor holds what was its."""
    seed = chance.randrange(2**30)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # The driver's node is not killed.
    puts = chance.random() < 0.5
    options: dict[str, Any] = {"scheduling_strategy": here} if puts else {}
    owner: Any = None
    if chance.random() < 0.5:
        given = owning_task.options(**options).remote(seed, puts)
    else:
        owner = Owner.options(**options).remote()
        given = owner.give.remote(seed, puts)
    pid, refs = fetch(given, "references")
    holders = [Holder.remote() for _ in range(3)]
    pause = chance.choice([0.0, 0.1, 0.5])
    readings = [
        holders[0].read.remote(refs, pause),
        holders[1].hand_on.remote(holders[2], refs, pause),
    ]
    time.sleep(chance.choice([0.0, 0.0, 0.05]))
    kill_process(pid)
    expected = owned(seed, puts)
    if chance.random() < 0.5:
        check(plainly(fetch(refs, "values without their owner")), expected, "values without their owner")
    # In the other half the actors are the only ones that ask for them.
    del refs, given
    for reading in readings:
        check(fetch(reading, "what actors hold"), expected, "values without their owner, held by an actor")
    for actor in [*holders, *([owner] if owner is not None else [])]:
        ray.kill(actor)
    return 14 + 3 * puts


def durable_actors(chance: random.Random) -> int:
    """`FT-6`: each call counts once, though the process dies in the midst of them."""
    account = Account.options(checkpoint_every=chance.choice([1, 7, 100])).remote()
    amounts = [chance.randrange(1000) for _ in range(60)]
    balances = [sum(amounts[: i + 1]) for i in range(len(amounts))]
    refs = [account.deposit.remote(amount) for amount in amounts[:20]]
    kill_process(fetch(account.pid.remote(), "a durable actor's process"))
    refs += [account.deposit.remote(amount) for amount in amounts[20:]]
    check(fetch(refs, "balances"), balances, "balances")
    ray.kill(account)
    return len(refs) + 1


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
    "outliving references": (3, outliving),
    "durable actors": (1, durable_actors),
}


def some_unit(chance: random.Random) -> str:
    names = list(UNITS)
    return chance.choices(names, weights=[UNITS[name][0] for name in names])[0]
