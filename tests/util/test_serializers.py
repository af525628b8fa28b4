"""`ray.util.register_serializer`, and `ray.util.inspect_serializability` for what has none."""

import io
import threading

import pytest
from under_test import ray, ray_rs_only

pytestmark = pytest.mark.usefixtures("cluster")


class Connection:
    def __init__(self, url):
        self.url = url
        self.lock = threading.Lock()


class Derived(Connection):
    pass


@pytest.fixture
def registered():
    ray.util.register_serializer(Connection, serializer=lambda c: c.url, deserializer=Connection)
    yield
    ray.util.deregister_serializer(Connection)


@ray.remote
def url_of(connection):
    return connection.url


@ray.remote
def make(url):
    ray.util.register_serializer(Connection, serializer=lambda c: c.url + " (made)", deserializer=Connection)
    return [Connection(url)]


def test_registered(registered):
    assert ray.get(ray.put(Connection("a"))).url == "a"
    assert ray.get(url_of.remote(Connection("b"))) == "b"
    assert [each.url for each in ray.get(ray.put([Connection("c"), {"d": Connection("d")}["d"]]))] == ["c", "d"]


def test_of_the_process_that_pickles():
    assert ray.get(make.remote("e"))[0].url == "e (made)"


def test_for_this_very_class(registered):
    with pytest.raises(TypeError):
        ray.put(Derived("x"))


def test_taken_back(registered):
    ray.util.deregister_serializer(Connection)
    with pytest.raises(TypeError):
        ray.put(Connection("x"))
    ray.util.deregister_serializer(Connection)


# ------------------------------------------------------------------------------------------------------------- inspect

lock = threading.Lock()


def inspect(value, **kwargs):
    report = io.StringIO()
    ok, failures = ray.util.inspect_serializability(value, print_file=report, **kwargs)
    return ok, failures, report.getvalue()


def test_nothing_wrong():
    ok, failures, report = inspect([1, {"two": (3,)}])
    assert ok
    assert failures == set()
    assert "Checking Serializability of" in report


def test_found_in_a_closure_three_levels_deep():
    guard = threading.Lock()

    def outer():
        def middle():
            def inner():
                return guard

            return inner()

        return middle

    ok, failures, report = inspect(outer, name="outer")
    assert not ok
    (failure,) = failures
    assert failure.obj is guard
    assert failure.path == ("outer", "guard")
    assert failure.parent is outer
    assert "guard" in report


def test_found_through_objects():
    class Holder:
        def __init__(self):
            self.connection = Connection("x")

    holder = Holder()

    def task():
        return holder

    ok, failures, _ = inspect(task, name="task", depth=5)
    assert not ok
    (failure,) = failures
    assert failure.obj is holder.connection.lock
    assert failure.path == ("task", "holder", "connection", "lock")


@ray_rs_only("Ray does not look into lists")
def test_no_deeper_than_asked():
    connection = Connection("x")
    _, (failure,), _ = inspect([connection], depth=1)
    assert failure.obj is connection


@ray_rs_only("Ray does not look into lists")
def test_found_in_containers():
    guards = [threading.Lock(), threading.Lock()]
    ok, failures, _ = inspect({"guards": guards}, name="settings")
    assert not ok
    assert {failure.path for failure in failures} == {
        ("settings", "['guards']", "[0]"),
        ("settings", "['guards']", "[1]"),
    }


def test_the_value_itself():
    ok, failures, _ = inspect(lock)
    assert not ok
    (failure,) = failures
    assert failure.obj is lock
    assert failure.parent is None
