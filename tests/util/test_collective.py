"""`ray.util.collective`: what the processes of a group do together with their arrays."""

import importlib

import numpy as np
import pytest
from under_test import NAME, exceptions, ray, ray_rs_only

collective = importlib.import_module(f"{NAME}.util.collective")
ReduceOp = importlib.import_module(f"{NAME}.util.collective.types").ReduceOp

# Ray needs torch for the same.
pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("works without torch")]

SIZE = 3
# Above the size from which every rank reduces one part for all; not to be parted evenly.
MANY = 40_001


@ray.remote(num_cpus=0)
class Member:
    def __init__(self, rank=None, group="default"):
        self.rank, self.group = rank, group

    def join(self, world_size=SIZE, timeout_ms=30_000):
        collective.init_collective_group(world_size, self.rank, "gloo", self.group, gloo_timeout=timeout_ms)

    def leave(self):
        collective.destroy_collective_group(self.group)
        return collective.is_group_initialized(self.group)

    def place(self):
        return collective.get_rank(self.group), collective.get_collective_group_size(self.group)

    def call(self, name, tensor, *arguments, **named):
        tensor = np.array(tensor)
        getattr(collective, name)(tensor, *arguments, group_name=self.group, **named)
        return tensor

    def gather(self, tensor):
        targets = [np.zeros_like(tensor) for _ in range(SIZE)]
        collective.allgather(targets, tensor, self.group)
        return targets

    def scatter(self, tensors):
        target = np.zeros_like(tensors[0])
        collective.reducescatter(target, tensors, self.group)
        return target

    def in_place(self, tensor):
        collective.allreduce(tensor, self.group)

    def meet(self):
        collective.barrier(self.group)


@pytest.fixture
def members(request):
    made = [Member.remote(rank, request.node.name) for rank in range(SIZE)]
    ray.get([member.join.remote() for member in made])
    return made


def of_all(members, method, arguments):
    return ray.get([getattr(member, method).remote(*each) for member, each in zip(members, arguments, strict=True)])


@pytest.mark.parametrize("length", [5, MANY])
@pytest.mark.parametrize(
    ("op", "combine"),
    [
        (ReduceOp.SUM, np.add),
        (ReduceOp.PRODUCT, np.multiply),
        (ReduceOp.MIN, np.minimum),
        (ReduceOp.MAX, np.maximum),
    ],
)
def test_allreduce(members, op, combine, length):
    arrays = [np.random.default_rng(rank).normal(size=(length, 2)) for rank in range(SIZE)]
    expected = combine(combine(arrays[0], arrays[1]), arrays[2])
    results = ray.get([m.call.remote("allreduce", a, op=op) for m, a in zip(members, arrays, strict=True)])
    assert all(np.array_equal(result, expected) for result in results)


def test_reduce_and_broadcast(members):
    arrays = [np.full(4, rank + 1, dtype=np.int32) for rank in range(SIZE)]
    results = of_all(members, "call", [("reduce", array, 1) for array in arrays])
    assert [result.tolist() for result in results] == [[1] * 4, [6] * 4, [3] * 4]
    results = of_all(members, "call", [("broadcast", array, 2) for array in arrays])
    assert [result.tolist() for result in results] == [[3] * 4] * SIZE


def test_allgather_and_reducescatter(members):
    arrays = [np.array([rank, -rank]) for rank in range(SIZE)]
    results = of_all(members, "gather", [(array,) for array in arrays])
    assert [[each.tolist() for each in result] for result in results] == [[[0, 0], [1, -1], [2, -2]]] * SIZE
    results = of_all(members, "scatter", [(arrays,)] * SIZE)
    assert [result.tolist() for result in results] == [[0, 0], [3, -3], [6, -6]]


def test_what_is_sent_comes_in_order(members):
    first, second, third = members
    ray.get([first.call.remote("send", np.array([n]), 2) for n in range(5)])
    ray.get(second.call.remote("send", np.array([100]), 2))
    came = [third.call.remote("recv", np.array([-1]), source) for source in (0, 1, 0, 0)]
    assert [int(value[0]) for value in ray.get(came)] == [0, 100, 1, 2]


def test_a_group_is_declared_by_the_driver_and_ended_by_it():
    made = [Member.remote(group="declared") for _ in range(SIZE)]
    collective.create_collective_group(made, SIZE, [2, 0, 1], "gloo", "declared")
    with pytest.raises(RuntimeError, match="twice"):
        collective.create_collective_group(made, SIZE, [2, 0, 1], "gloo", "declared")
    assert ray.get([member.place.remote() for member in made]) == [(2, SIZE), (0, SIZE), (1, SIZE)]
    results = of_all(made, "call", [("broadcast", np.array([rank]), 0) for rank in (2, 0, 1)])
    assert [int(value[0]) for value in results] == [0] * SIZE
    collective.destroy_collective_group("declared")
    with pytest.raises(exceptions.RayActorError):
        ray.get(made[0].meet.remote())


def test_a_group_of_another_size_takes_the_name(members):
    assert ray.get([member.leave.remote() for member in members]) == [False] * SIZE
    assert ray.get(members[0].place.remote()) == (-1, -1)
    ray.get([member.join.remote(2) for member in members[:2]])
    results = of_all(members[:2], "call", [("allreduce", np.array([1.0]))] * 2)
    assert [float(value[0]) for value in results] == [2.0, 2.0]


def test_ranks_that_call_different_operations_are_told(members):
    calls = [
        members[0].call.remote("allreduce", np.zeros(2)),
        members[1].call.remote("broadcast", np.zeros(2)),
        members[2].call.remote("allreduce", np.zeros(3)),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"rank 0: allreduce of float64\[2\] by SUM; rank 1: broadcast"):
            ray.get(call)


def test_a_wait_for_a_rank_that_does_not_come_ends_with_its_number(request):
    made = [Member.remote(rank, request.node.name) for rank in range(SIZE)]
    ray.get([member.join.remote(timeout_ms=300) for member in made])
    with pytest.raises(RuntimeError, match=r"has waited 0\.3 s in barrier: these ranks have not come: 1, 2\."):
        ray.get(made[0].meet.remote())
    with pytest.raises(RuntimeError, match="rank 1 has sent nothing"):
        ray.get(made[0].call.remote("recv", np.zeros(1), 1))


def test_a_result_does_not_go_to_an_array_that_is_read_only(members):
    array = np.zeros(100_000)
    with pytest.raises(RuntimeError, match="read-only"):
        ray.get([member.in_place.remote(array) for member in members])


def test_misuse(members):
    with pytest.raises(RuntimeError, match="only used inside"):
        collective.allreduce(np.zeros(1))
    with pytest.raises(RuntimeError, match="a second time"):
        ray.get(members[0].join.remote())
    with pytest.raises(RuntimeError, match="Rank 1 of the group is taken"):
        ray.get(Member.remote(1, members_group(members)).join.remote())
    with pytest.raises(ValueError, match="must be less than world size"):
        ray.get(members[0].call.remote("broadcast", np.zeros(1), 7))
    with pytest.raises(RuntimeError, match="is self"):
        ray.get(members[0].call.remote("send", np.zeros(1), 0))
    with pytest.raises(NotImplementedError, match="no NCCL"):
        collective.create_collective_group(members[:1], 1, [0])
    with pytest.raises(NotImplementedError, match="main memory"):
        collective.allreduce_multigpu([])


def members_group(members):
    return ray.get(members[0].__ray_call__.remote(lambda self: self.group))
