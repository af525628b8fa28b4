"""`ray.dag`: graphs that are described with `bind` and run by `execute`."""

import importlib
import pickle

import pytest
from under_test import NAME, ray, ray_rs_only

dag = importlib.import_module(f"{NAME}.dag")
InputNode, MultiOutputNode = dag.InputNode, dag.MultiOutputNode

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def add(a, b=0):
    return a + b


@ray.remote
def double(x):
    return 2 * x


@ray.remote
class Counter:
    def __init__(self, start=0):
        self.n = start

    def add(self, k=1):
        self.n += k
        return self.n

    def get(self):
        return self.n

    @ray.method(num_returns=2)
    def both(self):
        return self.n, -self.n


def test_constants():
    node = add.bind(double.bind(2), b=1)
    assert isinstance(node, dag.FunctionNode)
    assert ray.get(node.execute()) == 5
    assert node.get_kwargs() == {"b": 1}


def test_input():
    with InputNode() as x:
        node = add.bind(double.bind(x), x)
    assert [ray.get(node.execute(n)) for n in (1, 5)] == [3, 15]


def test_parts_of_the_input():
    with InputNode() as given:
        node = add.bind(given[0], given.factor)
    assert ray.get(node.execute(1, factor=2)) == 3
    with InputNode() as given:
        node = add.bind(given["a"], given["b"])
    assert ray.get(node.execute({"a": 3, "b": 4})) == 7

    with InputNode() as given:
        node = add.bind(given.real, given.imag)
    assert ray.get(node.execute(1 + 2j)) == 3


def test_each_node_runs_once():
    counter = Counter.remote()
    once = counter.add.bind()
    assert ray.get(add.bind(add.bind(once, once), once).execute()) == 3
    assert ray.get(counter.get.remote()) == 1


def test_actors_are_created_by_execution():
    actor = Counter.bind(10)
    assert isinstance(actor, dag.ClassNode)
    actor.add.bind()
    actor.add.bind(5)
    result = actor.get.bind()
    assert [ray.get(result.execute()) for _ in range(2)] == [16, 16]
    assert ray.get(Counter.bind(3).execute().get.remote()) == 3


def test_calls_of_living_actors():
    counter = Counter.remote(1)
    assert ray.get(counter.add.bind(double.bind(2)).execute()) == 5
    assert ray.get(counter.get.remote()) == 5


def test_several_outputs():
    with InputNode() as x:
        node = MultiOutputNode([double.bind(x), add.bind(x, 1)])
    assert ray.get(node.execute(3)) == [6, 4]


@ray_rs_only("Ray's gives a tuple of nodes when the actor lives")
def test_several_returns():
    for actor in (Counter.bind(4), Counter.remote(4)):
        assert ray.get(actor.both.bind().execute()) == [4, -4]


def test_nodes_inside_containers_stand_for_references():
    @ray.remote
    def total(numbers, more):
        return sum(ray.get(numbers)) + ray.get(more["x"])

    assert ray.get(total.bind([double.bind(1), double.bind(2)], {"x": double.bind(3)}).execute()) == 12


def test_errors():
    @ray.remote
    def fail():
        raise KeyError("this")

    with pytest.raises(KeyError):
        ray.get(add.bind(fail.bind()).execute())


@ray_rs_only("Ray checks the methods of living actors only")
def test_arguments_are_checked_when_bound():
    with pytest.raises(TypeError, match="missing a required argument"):
        add.bind()
    with pytest.raises(TypeError):
        Counter.bind(1, 2, 3)
    with pytest.raises(TypeError):
        Counter.bind().add.bind(1, 2, 3)
    with pytest.raises(AttributeError):
        Counter.bind().absent


def test_options():
    @ray.remote
    def resources():
        return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(resources.options(num_cpus=2).bind().execute()) == {"CPU": 2.0}
    named = Counter.options(name="by a graph").bind(7).execute()
    assert ray.get(ray.get_actor("by a graph").get.remote()) == 7
    del named


@ray_rs_only("Ray's execution is recursive")
def test_long_chains():
    node = add.bind(0, 1)
    for _ in range(2000):
        node = add.bind(node, 1)
    assert ray.get(node.execute()) == 2001


@ray_rs_only("its nodes pickle by themselves")
def test_graphs_travel():
    with InputNode() as x:
        node = add.bind(double.bind(x), x)
    again = pickle.loads(ray.cloudpickle.dumps(node))
    assert ray.get(again.execute(2)) == 6
    assert again.get_stable_uuid() == node.get_stable_uuid()


@ray_rs_only("there are no compiled graphs")
def test_compiling_says_no():
    with pytest.raises(NotImplementedError, match="compiled graphs"):
        add.bind(1).experimental_compile()
