"""Random programs of tasks, actors, nested and borrowed references, held against what they would give if run in order.

Each program is made from a number, which a failure names. At its end nothing may be referenced any more.
"""

import gc
import random

import numpy as np
import pytest
from under_test import IS_RAY, ray, wait_until

pytestmark = pytest.mark.usefixtures("cluster")

LARGE = 30_000  # items: 240 kB, which is kept in the object store
STEPS = 80


def mix(*codes):
    x = 17
    for code in codes:
        x = (x * 1_000_003 + code) % 1_000_000_007
    return x


def value(code):
    """What stands for a code: a number, or an array of it."""
    return np.full(LARGE, code) if code % 3 == 0 else code


def code_of(value):
    if isinstance(value, np.ndarray):
        assert value.shape == (LARGE,)
        assert (value == value[0]).all()
        return int(value[0])
    return value


def codes_of(tree):
    """The codes in a value, through lists and references, in order."""
    if isinstance(tree, ray.ObjectRef):
        return codes_of(ray.get(tree))
    if isinstance(tree, list):
        return [code for part in tree for code in codes_of(part)]
    return [code_of(tree)]


# By value: workers need not find this module.
for function in (mix, value, code_of, codes_of):
    function.__module__ = "__main__"


@ray.remote
def combine(salt, *values):
    return value(mix(salt, *map(code_of, values)))


@ray.remote
def look(salt, tree):
    return value(mix(salt, *codes_of(tree)))


@ray.remote
def build(salt, refs, extra):
    """References that came, some to objects put here, some to tasks started here."""
    made = list(refs)
    for i in range(extra):
        made.append(ray.put(value(mix(salt, i))) if i % 2 else combine.remote(salt, i))
    return made


@ray.remote
def relay(refs, depth):
    return ray.get(relay.remote(refs, depth - 1)) if depth else refs


@ray.remote(num_cpus=0)
class Shelf:
    def __init__(self):
        self.kept = {}

    def keep(self, key, refs):
        self.kept[key] = refs

    def give(self, key):
        return self.kept[key]

    def forget(self, key):
        del self.kept[key]

    def look(self, salt, tree):
        return ray.get(look.remote(salt, tree))


class Program:
    """Makes itself up as it goes, and knows what each reference stands for: a code, or a list of such trees."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.held = []
        self.shelves = [(Shelf.remote(), {}) for _ in range(2)]
        self.keys = 0

    def run(self):
        kinds = "put combine combine look build relay keep give forget look_there drop drop check wait".split()
        for _ in range(STEPS):
            getattr(self, self.chance.choice(kinds))(self.chance.randrange(1_000_000))
        for ref, tree in self.held:
            self.compare(ref, tree)
        self.held.clear()
        for shelf, _ in self.shelves:
            ray.kill(shelf)
        self.shelves.clear()

    def some(self, at_most=3, flat=False):
        pool = [(ref, tree) for ref, tree in self.held if not (flat and isinstance(tree, list))]
        chosen = self.chance.choices(pool, k=self.chance.randint(0, at_most)) if pool else []
        return [ref for ref, _ in chosen], [tree for _, tree in chosen]

    def compare(self, ref, tree):
        got = ray.get(ref, timeout=50)
        if isinstance(tree, list):
            assert len(got) == len(tree)
            for inner, expected in zip(got, tree, strict=True):
                self.compare(inner, expected)
        else:
            assert code_of(got) == tree

    def put(self, salt):
        self.held.append((ray.put(value(salt)), salt))

    def combine(self, salt):
        refs, trees = self.some(flat=True)
        self.held.append((combine.remote(salt, *refs), mix(salt, *trees)))

    def look(self, salt):
        refs, trees = self.some()
        self.held.append((look.remote(salt, refs), mix(salt, *codes_of(trees))))

    def build(self, salt):
        refs, trees = self.some()
        extra = self.chance.randint(0, 3)
        self.held.append((build.remote(salt, refs, extra), trees + [mix(salt, i) for i in range(extra)]))

    def relay(self, salt):
        refs, trees = self.some()
        self.held.append((relay.remote(refs, self.chance.randint(0, 3)), trees))

    def keep(self, salt):
        refs, trees = self.some()
        shelf, kept = self.chance.choice(self.shelves)
        self.keys += 1
        shelf.keep.remote(self.keys, refs)
        kept[self.keys] = trees

    def give(self, salt):
        shelf, kept = self.chance.choice(self.shelves)
        if kept:
            key = self.chance.choice(sorted(kept))
            self.held.append((shelf.give.remote(key), kept[key]))

    def forget(self, salt):
        shelf, kept = self.chance.choice(self.shelves)
        if kept:
            key = self.chance.choice(sorted(kept))
            shelf.forget.remote(key)
            del kept[key]

    def look_there(self, salt):
        refs, trees = self.some()
        shelf, _ = self.chance.choice(self.shelves)
        self.held.append((shelf.look.remote(salt, refs), mix(salt, *codes_of(trees))))

    def drop(self, salt):
        if self.held:
            self.held.pop(self.chance.randrange(len(self.held)))

    def check(self, salt):
        if self.held:
            self.compare(*self.chance.choice(self.held))

    def wait(self, salt):
        refs = list(dict.fromkeys(self.some(6)[0]))
        if refs:
            wanted = self.chance.randint(1, len(refs))
            ready, rest = ray.wait(refs, num_returns=wanted, timeout=50)
            assert len(ready) == wanted
            assert set(ready) | set(rest) == set(refs)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, 50, 10))
def test_random_programs(first):
    for seed in range(first, first + 10):
        try:
            Program(seed).run()
        except Exception as error:
            raise AssertionError(f"the program of seed {seed} fails") from error
        gc.collect()
        if not IS_RAY:
            from ray_rs import _core

            counted = wait_until(
                lambda: (now := _core.counters()) and not now["references"] and not now["tasks"] and now,
                f"all references of seed {seed} to go",
            )
            assert counted["references"] == 0
