"""Much of everything in one call: arguments, names, references, bytes, depth."""

import pytest
from under_test import ray

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def same(x):
    return x


@ray.remote
def total(*args, **kwargs):
    return sum(args) + sum(kwargs.values())


@ray.remote
def total_inside(refs):
    return sum(ray.get(refs))


@ray.remote
class Adder:
    def total(self, *args, **kwargs):
        return sum(args) + sum(kwargs.values())

    def deep(self, n):
        return self.deep(n - 1) + 1 if n else 0


def test_ten_thousand_references():
    for refs in ([ray.put(i) for i in range(10_000)], [same.remote(i) for i in range(10_000)]):
        expected = sum(range(10_000))
        assert ray.get(total_inside.remote(refs)) == expected
        assert ray.get(total.remote(*refs)) == expected
        assert len(ray.get(same.remote(refs))) == 10_000


@pytest.mark.parametrize("wrap", [int, ray.put], ids=["values", "references"])
def test_a_thousand_named_arguments(wrap):
    named = {f"name{i}": wrap(i) for i in range(1000)}
    assert ray.get(total.remote(**named)) == sum(range(1000))
    assert ray.get(Adder.remote().total.remote(**named)) == sum(range(1000))


def test_a_thousand_results():
    refs = same.options(num_returns=1000).remote(list(range(1000)))
    assert ray.get(refs) == list(range(1000))


def test_several_arguments_of_ten_megabytes():
    @ray.remote
    def lengths(*args):
        return [len(arg) for arg in args]

    args = [b"b" * 10_000_000, "s" * 10_000_000, bytearray(10_000_000), list(range(1_000_000))]
    assert ray.get(lengths.remote(*args)) == [10_000_000, 10_000_000, 10_000_000, 1_000_000]


def test_names_that_mean_something_to_the_engine():
    odd = {"self": 1, "args": 2, "kwargs": 3, "num_returns": 4, "name": 5, "not an identifier": 6}

    @ray.remote
    def named(**kwargs):
        return kwargs

    assert ray.get(named.remote(**odd)) == odd


def test_recursion_without_end_is_an_error_and_no_crash():
    @ray.remote(max_retries=0)
    def endless(n):
        def deeper(k):
            return deeper(k + 1)

        return deeper(n)

    with pytest.raises(RecursionError):
        ray.get(endless.remote(0))
    actor = Adder.remote()
    with pytest.raises(RecursionError):
        ray.get(actor.deep.remote(100_000))
    assert ray.get(actor.deep.remote(100)) == 100


def test_a_value_that_is_nested_too_deeply():
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(TypeError, match="Could not serialize"):
        same.remote(value)
    with pytest.raises(TypeError, match="Could not serialize"):
        ray.put(value)
    assert ray.get(same.remote([[[[]]]])) == [[[[]]]]


def test_a_resource_and_a_task_for_each_of_many_names(no_cluster):
    names = [f"r{number}" for number in range(1_000)]
    ray.init(num_cpus=1, resources=dict.fromkeys(names, 1))
    refs = [same.options(resources={name: 1}).remote(name) for name in names]
    everything = same.options(resources=dict.fromkeys(names, 1)).remote("all of them")
    assert ray.get(refs) == names
    assert ray.get(everything) == "all of them"
