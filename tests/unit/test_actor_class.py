"""What `@remote` makes of a class, before anything runs. No cluster."""

import abc
import pickle

import pytest
from ray_rs import _function_table, actor, options
from under_test import ray


class Plain:
    """Counts."""

    step = 3

    def __init__(self, start=0):
        self.n = start

    def add(self, k, /, *, twice=False): ...

    async def later(self): ...

    @staticmethod
    def helper(x):
        return x

    @classmethod
    def make(cls, y):
        return cls.step

    @ray.method(num_returns=2)
    def two(self): ...

    @property
    def prop(self): ...

    def __repr__(self):
        return self.nowhere


def rows(cls):
    state = ray.remote(cls)._ray_state
    state._inspect()
    plan = options.actor_plan({}, is_async=state._is_async)
    return state, {name: actor._describe(name, member, plan) for name, member in state._methods.items()}


def test_the_class_stays_reachable():
    remote = ray.remote(Plain)
    assert remote.step == 3
    assert remote.helper(4) == 4
    assert remote.make(1) == 3
    assert repr(remote) == "ActorClass(Plain)"
    assert isinstance(remote, actor.ActorClass)
    assert isinstance(remote, Plain)
    assert remote.__doc__ == "Counts."
    assert remote.__ray_metadata__.modified_class.__ray_actor_class__ is Plain


def test_methods_are_described():
    state, methods = rows(Plain)
    assert state._is_async
    assert state._constructor == (("start", 1, True),)
    assert methods["add"][1] == (("k", 0, False), ("twice", 3, True))
    assert methods["helper"][1] == (("x", 1, False),)
    assert methods["make"][1] == (("y", 1, False),)
    assert methods["two"][2] == 2
    assert methods["later"][5] is True
    assert not {"prop", "step"} & methods.keys()


def test_settings_of_base_classes_and_wrapped_methods():
    class Child(Plain):
        pass

    assert rows(Child)[1]["two"][2] == 2


def test_classes_without_a_constructor_take_no_arguments():
    class Bare:
        pass

    assert rows(Bare)[0]._constructor == ()
    assert rows(type("Derived", (dict,), {}))[0]._constructor is None


def test_odd_classes():
    class Abstract(abc.ABC):
        @abc.abstractmethod
        def f(self): ...

    class Final:
        q = 7

        def __init_subclass__(cls):
            raise TypeError("final")

    class Picky:
        def __new__(cls, a, b):
            raise AssertionError("not to be called")

    assert repr(ray.remote(Abstract)) == "ActorClass(Abstract)"
    assert ray.remote(Final).q == 7
    assert repr(ray.remote(Picky)) == "ActorClass(Picky)"


def test_misuse():
    remote = ray.remote(Plain)
    with pytest.raises(TypeError, match=r"Instead of 'Plain\(\)', use 'Plain.remote\(\)'"):
        remote()
    with pytest.raises(actor.ActorClassInheritanceException, match="subclass 'Sub' of actor class 'Plain'"):

        class Sub(remote):
            pass

    with pytest.raises(TypeError, match="exit_actor"):
        ray.actor.exit_actor()


def test_actor_classes_travel():
    remote = ray.remote(num_cpus=2)(Plain)
    again = pickle.loads(pickle.dumps(remote))
    assert again._ray_class is Plain
    assert again._ray_options == {"num_cpus": 2}


def test_a_class_that_names_its_actor_class_travels():
    source = """
import ray_rs as ray

@ray.remote
class Node:
    def spawn(self):
        return Node

plain = Node._ray_class
plain.__module__ = "__main__"
"""
    space = {"__name__": "__main__"}
    exec(source, space)
    blob = _function_table.pickle_definition(space["plain"], "Node")
    there = pickle.loads(blob)
    inner = there().spawn()
    assert inner._ray_class is there
    assert _function_table.pickle_definition(there, "Node") == blob
