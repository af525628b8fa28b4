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


def test_nodes_do_not_travel():
    with pytest.raises(ValueError):
        pickle.dumps(dag.DAGNode([], {}, {}, {}))


def test_input_has_rules():
    with pytest.raises(ValueError, match="should not take any args or kwargs"):
        InputNode(0)
    with pytest.raises(AssertionError, match="only use int index or str"):
        with InputNode() as given:
            given[(1, 2)]
    with pytest.raises(AssertionError, match="only used in context manager"):
        double.bind(InputNode()).execute(1)
    with pytest.raises(ValueError, match="cannot be used"):
        with InputNode() as given:
            Counter.bind(given)
    with InputNode() as one, InputNode() as other:
        node = add.bind(double.bind(one), other)
    with pytest.raises(AssertionError, match="one unique InputNode"):
        node.execute(1)


def test_bound_is_bound():
    with pytest.raises(AttributeError, match=r"\.bind\(\) cannot be used again on"):
        Counter.bind().bind()
    with pytest.raises(AttributeError, match=r"\.remote\(\) cannot be used on ClassMethodNodes"):
        Counter.bind().get.remote()
    with pytest.raises(AttributeError, match="has no attribute 'remote'"):
        Counter.bind().remote()
    with pytest.raises(AttributeError, match=r"\.remote\(\) cannot be used on"):
        add.bind(1).remote()


def test_what_has_to_be_there_first():
    actor = Counter.options(name="first").bind(1)
    first = actor.add.options(name="one").bind(2)
    second = actor.get.bind()
    others = second.get_other_args_to_resolve()
    assert others[dag.PARENT_CLASS_NODE_KEY].get_options()["name"] == "first"
    assert others[dag.PREV_CLASS_METHOD_CALL_KEY].get_options() == first.get_options() == {"name": "one"}
    assert second.get_options() == {}


@ray_rs_only("there are no compiled graphs")
def test_compiling_says_no():
    with pytest.raises(NotImplementedError, match="compiled graphs"):
        add.bind(1).experimental_compile()
