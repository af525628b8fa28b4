"""References that travel outside of arguments: in closures, partials, globals, defaults, and in what users pickle."""

import dataclasses
import functools
import gc
import pickle

import numpy as np
import pytest
from under_test import ray

pytestmark = pytest.mark.usefixtures("cluster")

LARGE = 300_000


@ray.remote
def call(function, *args):
    return function(*args)


@ray.remote
def same(x):
    return x


def of(kind):
    """A reference to 7, or to an array that begins with 7."""
    return {
        "small": lambda: ray.put(7),
        "large": lambda: ray.put(np.full(LARGE, 7)),
        "result": lambda: same.remote(7),
    }[kind]()


def first(value):
    return int(np.ravel(value)[0])


def read(ref, more=0):
    return first(ray.get(ref)) + more


KINDS = pytest.mark.parametrize("kind", ["small", "large", "result"])


@KINDS
def test_in_the_closure_of_a_task(kind):
    ref = of(kind)

    @ray.remote
    def captured():
        return first(ray.get(ref))

    assert ray.get([captured.remote() for _ in range(3)]) == [7] * 3


@KINDS
def test_in_a_function_that_is_an_argument(kind):
    def maker():
        ref = of(kind)
        return lambda: first(ray.get(ref))

    function = maker()
    gc.collect()
    assert ray.get(call.remote(function)) == 7
    assert ray.get(call.remote(functools.partial(read, of(kind), more=1))) == 8
    assert ray.get(call.remote(functools.partial(read, ref=of(kind)))) == 7


@KINDS
def test_in_globals_and_defaults(kind):
    namespace = {"ray": ray, "REF": of(kind), "first": first}
    exec("def uses_a_global():\n    return first(ray.get(REF))", namespace)
    assert ray.get(ray.remote(namespace["uses_a_global"]).remote()) == 7

    kept = of(kind)

    def with_default(refs=(kept,)):
        return first(ray.get(refs[0]))

    assert ray.get(ray.remote(with_default).remote()) == 7


@KINDS
def test_in_the_class_of_an_actor(kind):
    shared = of(kind)

    @ray.remote
    class Holder:
        SHARED = of(kind)

        def read(self):
            return first(ray.get(self.SHARED)), first(ray.get(shared))

    assert ray.get(Holder.remote().read.remote()) == (7, 7)


@KINDS
def test_pickled_by_the_user(kind):
    text = ray.cloudpickle.dumps(of(kind))
    gc.collect()
    # No reference is left but the one in the text, which keeps the value.
    assert first(ray.get(ray.cloudpickle.loads(text))) == 7
    assert ray.get(call.remote(lambda: first(ray.get(ray.cloudpickle.loads(text))))) == 7

    ref = of(kind)
    assert first(ray.get(pickle.loads(pickle.dumps(ref)))) == 7


@KINDS
def test_inside_values_of_every_kind(kind):
    @dataclasses.dataclass
    class Box:
        ref: object

    assert first(ray.get(ray.get(same.remote(Box(of(kind)))).ref)) == 7
    for value in ({of(kind): 1}, {of(kind)}, (of(kind),), np.array([of(kind)], dtype=object)):
        assert first(ray.get(next(iter(ray.get(same.remote(value)))))) == 7


def test_handles_of_actors_in_closures():
    @ray.remote
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

    counter = Counter.remote()

    @ray.remote
    def captured():
        return ray.get(counter.add.remote())

    assert sorted(ray.get([captured.remote() for _ in range(3)])) == [1, 2, 3]
    assert ray.get(ray.cloudpickle.loads(ray.cloudpickle.dumps(counter)).add.remote()) == 4
