"""`ray.experimental.internal_kv`, and the list of named actors: small questions to the control store."""

import importlib
import pickle

import pytest
from under_test import NAME, ray, ray_rs_only, wait_until

kv = importlib.import_module(f"{NAME}.experimental.internal_kv")

pytestmark = pytest.mark.usefixtures("cluster")


def test_values():
    assert kv._internal_kv_initialized()
    assert kv._internal_kv_get("absent") is None
    assert not kv._internal_kv_exists(b"absent")
    assert kv._internal_kv_put("k", b"1") is False
    assert kv._internal_kv_put(b"k", b"2") is True
    assert kv._internal_kv_get("k") == b"2"
    assert kv._internal_kv_put("k", b"3", overwrite=False) is True
    assert kv._internal_kv_get(b"k") == b"2"
    assert kv._internal_kv_del("k") == 1
    assert kv._internal_kv_del("k") == 0
    assert not kv._internal_kv_exists("k")


def test_namespaces_and_prefixes():
    for key in ("p/1", "p/2", "q"):
        kv._internal_kv_put(key, b"x", namespace="n")
    assert kv._internal_kv_get("p/1") is None
    assert kv._internal_kv_get("p/1", namespace=b"n") == b"x"
    assert sorted(kv._internal_kv_list("p/", namespace="n")) == [b"p/1", b"p/2"]
    assert kv._internal_kv_del("p/", del_by_prefix=True, namespace="n") == 2
    assert kv._internal_kv_list("", namespace="n") == [b"q"]


def test_seen_by_tasks():
    @ray.remote
    def write():
        kv._internal_kv_put("from a task", b"y")

    ray.get(write.remote())
    assert kv._internal_kv_get("from a task") == b"y"


@ray.remote(num_cpus=0)
class Named:
    pass


def test_named_actors():
    assert ray.util.list_named_actors() == []
    here = [Named.options(name=name).remote() for name in ("b", "a")]
    there = Named.options(name="c", namespace="elsewhere").remote()
    ray.get([actor.__ray_ready__.remote() for actor in (*here, there)])
    assert sorted(ray.util.list_named_actors()) == ["a", "b"]
    everywhere = ray.util.list_named_actors(all_namespaces=True)
    assert sorted((each["namespace"], each["name"]) for each in everywhere) == [
        ("elsewhere", "c"),
        ("tests", "a"),
        ("tests", "b"),
    ]
    ray.kill(here[0])
    wait_until(lambda: ray.util.list_named_actors() == ["a"], "a killed actor's name to go")


@ray_rs_only("Ray keeps its functions in other ways")
def test_functions_are_kept():
    """A small function travels to the worker with its task; the control store has it soon after, in the background."""
    core = importlib.import_module(f"{NAME}._core")
    before = set(core.kv_keys("fun", b""))

    @ray.remote
    def kept():
        return "by the hash of its bytes"

    assert ray.get(kept.remote()) == "by the hash of its bytes"

    def is_it(key):
        # Those of tests before this one may come as late.
        function = pickle.loads(core.kv_get("fun", key))
        return getattr(function, "__name__", "") == "kept" and function() == "by the hash of its bytes"

    wait_until(lambda: any(map(is_it, set(core.kv_keys("fun", b"")) - before)), "the function is kept")
