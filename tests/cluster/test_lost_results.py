"""Results whose only copy was on a node that died are made again."""

import time

import numpy as np
import pytest
from under_test import exceptions, ray

MIB = 2**20
SIZE = 2 * MIB


@pytest.fixture
def three(ray_cluster):
    """The driver's node, one that will die, and a third."""
    return ray_cluster(
        [{"num_cpus": 2}, {"num_cpus": 2, "resources": {"mortal": 2}}, {"num_cpus": 2, "resources": {"third": 2}}]
    )


def replace_the_mortal(cluster):
    cluster.remove_node(cluster.nodes[1], allow_graceful=False)
    return cluster.add_node(num_cpus=2, resources={"mortal": 2})


def mortal(**options):
    return ray.remote(resources={"mortal": 0.1}, **options)


def log_of(path):
    return [line for line in path.read_text().splitlines() if line]


def makers(log):
    log.touch()

    @mortal()
    def make(value):
        with open(log, "a") as file:
            file.write(f"make {value}\n")
        return np.full(SIZE, value, dtype=np.uint8)

    @mortal()
    def plus_one(array):
        with open(log, "a") as file:
            file.write(f"plus_one {int(array[0])}\n")
        return array + 1

    return make, plus_one


@ray.remote
def first_of(array):
    return int(array[0])


@ray.remote
class Borrower:
    def take(self, box):
        self.box = box

    def first(self):
        return int(ray.get(self.box[0])[0])


def test_get_and_arguments_and_borrowers_on_a_third_node(three, tmp_path):
    log = tmp_path / "log"
    make, _ = makers(log)
    refs = [make.remote(i) for i in range(5)]
    ray.wait(refs, num_returns=5, timeout=60)
    borrower = Borrower.options(resources={"third": 0.1}).remote()
    ray.get(borrower.take.remote([refs[3]]), timeout=60)
    replace_the_mortal(three)
    assert ray.get(refs[0], timeout=60)[0] == 0
    assert ray.get(first_of.remote(refs[1]), timeout=60) == 1
    assert ray.get(first_of.options(resources={"third": 0.1}).remote(refs[2]), timeout=60) == 2
    assert ray.get(borrower.first.remote(), timeout=60) == 3
    assert [array[0] for array in ray.get(refs, timeout=60)] == [0, 1, 2, 3, 4]
    assert len(log_of(log)) == 10


def test_a_chain_and_twice(three, tmp_path):
    log = tmp_path / "log"
    make, plus_one = makers(log)
    ref = plus_one.remote(plus_one.remote(make.remote(0)))
    ray.wait([ref], timeout=60)
    again = replace_the_mortal(three)
    # Not read here, where a copy would stay.
    assert ray.get(first_of.options(resources={"mortal": 0.1}).remote(ref), timeout=60) == 2
    three.remove_node(again, allow_graceful=False)
    again = three.add_node(num_cpus=2, resources={"mortal": 2})
    assert (ray.get(ref, timeout=60) == 2).all()
    assert len(log_of(log)) == 9
    three.remove_node(again, allow_graceful=False)
    assert (ray.get(ref, timeout=60) == 2).all()
    assert len(log_of(log)) == 9


def test_it_waits_for_a_node_and_says_so(three, tmp_path):
    make, _ = makers(tmp_path / "log")
    ref = make.remote(7)
    ray.wait([ref], timeout=60)
    borrower = Borrower.options(resources={"third": 0.1}).remote()
    ray.get(borrower.take.remote([ref]), timeout=60)
    three.remove_node(three.nodes[1], allow_graceful=False)
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(ref, timeout=2)
    assert ray.wait([ref], timeout=0.1) == ([], [ref])
    assert "(try number 2)" in ray.why(ref)
    first = borrower.first.remote()
    assert ray.wait([first, ref], timeout=0.1) == ([], [first, ref])
    three.add_node(num_cpus=2, resources={"mortal": 2})
    assert ray.get([first, first_of.remote(ref)], timeout=60) == [7, 7]


def test_what_is_not_made_again(three):
    @mortal(max_retries=0)
    def once():
        return np.zeros(SIZE, dtype=np.uint8)

    @mortal()
    def put_there():
        return [ray.put(np.zeros(SIZE, dtype=np.uint8))]

    @mortal()
    class Maker:
        def make(self):
            return np.zeros(SIZE, dtype=np.uint8)

    maker = Maker.remote()
    lost = {"max_retries=0": once.remote(), "actor's method": maker.make.remote()}
    [put] = ray.get(put_there.remote(), timeout=60)
    ray.wait([*lost.values()], num_returns=2, timeout=60)
    replace_the_mortal(three)
    for why, ref in lost.items():
        with pytest.raises(exceptions.ObjectReconstructionFailedError, match=why):
            ray.get(ref, timeout=60)
        with pytest.raises(exceptions.ObjectLostError, match=why):
            ray.get(first_of.remote(ref), timeout=60)
    with pytest.raises(exceptions.OwnerDiedError):
        ray.get(put, timeout=60)


@mortal(max_restarts=-1, max_task_retries=2)
class Retrying:
    def __init__(self, log):
        self.log = log

    def make(self, value, before=None):
        with open(self.log, "a") as file:
            file.write(f"make {value}\n")
        return np.full(SIZE, value, dtype=np.uint8)

    def items(self, count):
        for i in range(count):
            yield np.full(SIZE, i, dtype=np.uint8)


def test_results_of_an_actor_whose_calls_may_be_tried_again(three, tmp_path):
    log = tmp_path / "log"
    actor = Retrying.remote(log)
    one = actor.make.remote(1)
    two = actor.make.remote(2, one)
    ray.wait([two], timeout=60)
    items = list(actor.items.remote(3))
    replace_the_mortal(three)
    assert ray.get(first_of.remote(two), timeout=60) == 2
    assert [array[0] for array in ray.get([one, two, *items], timeout=60)] == [1, 2, 0, 1, 2]
    assert sorted(log_of(log)) == ["make 1", "make 1", "make 2", "make 2"]


def test_a_result_is_lost_for_good_when_its_actor_is_dead(three, tmp_path):
    actor = Retrying.options(max_restarts=0).remote(tmp_path / "log")
    ref = actor.make.remote(1)
    ray.wait([ref], timeout=60)
    replace_the_mortal(three)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(ref, timeout=60)


def items_of(generator, count):
    return [next(generator) for _ in range(count)]


def test_items_of_a_generator_that_has_ended(three, tmp_path):
    log = tmp_path / "log"
    log.touch()

    @mortal(num_returns="streaming")
    def items(count):
        with open(log, "a") as file:
            file.write("run\n")
        for i in range(count):
            yield np.full(SIZE, i, dtype=np.uint8)

    generator = items.remote(6)
    taken = items_of(generator, 3)
    ray.get(generator.completed(), timeout=60)
    replace_the_mortal(three)
    assert ray.get(taken[1], timeout=60)[0] == 1
    assert ray.get(first_of.remote(taken[2]), timeout=60) == 2
    del taken[0]
    assert [array[0] for array in ray.get(list(generator), timeout=60)] == [3, 4, 5], "the rest was lost in the queue"
    assert len(log_of(log)) == 2


def test_items_of_a_generator_whose_consumer_has_gone(three):
    @mortal(num_returns="streaming")
    def items():
        yield np.full(SIZE, 7, dtype=np.uint8)
        yield "small"

    generator = items.remote()
    first, second = items_of(generator, 2)
    ray.get(generator.completed(), timeout=60)
    del generator
    replace_the_mortal(three)
    assert ray.get(first, timeout=60)[0] == 7
    assert ray.get(second, timeout=60) == "small"


def test_items_that_are_lost_while_their_generator_is_tried_again(three, tmp_path):
    gate = tmp_path / "gate"

    @mortal(num_returns="streaming", max_retries=3)
    def items():
        for i in range(3):
            yield np.full(SIZE, i, dtype=np.uint8)
        while not gate.exists():
            time.sleep(0.01)
        yield "end"

    generator = items.remote()
    taken = items_of(generator, 3)
    replace_the_mortal(three)
    gate.touch()
    assert [array[0] for array in ray.get(taken, timeout=60)] == [0, 1, 2]
    assert [ray.get(ref, timeout=60) for ref in generator] == ["end"]


def test_a_second_run_that_gives_fewer_items(three, tmp_path):
    log = tmp_path / "log"

    @mortal(num_returns="streaming")
    def items():
        count = 1 if log.exists() else 2
        log.touch()
        for i in range(count):
            yield np.full(SIZE, i, dtype=np.uint8)

    generator = items.remote()
    first, second = items_of(generator, 2)
    ray.get(generator.completed(), timeout=60)
    replace_the_mortal(three)
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="fewer"):
        ray.get(second, timeout=60)
    assert ray.get(first, timeout=60)[0] == 0


def test_items_of_a_generator_that_may_not_run_again(three):
    @mortal(num_returns="streaming", max_retries=0)
    def items():
        yield np.full(SIZE, 1, dtype=np.uint8)

    generator = items.remote()
    (first,) = items_of(generator, 1)
    ray.get(generator.completed(), timeout=60)
    replace_the_mortal(three)
    with pytest.raises(exceptions.ObjectReconstructionFailedError, match="max_retries"):
        ray.get(first, timeout=60)


def test_all_returns_of_one_task_are_made_by_one_run(three, tmp_path):
    log = tmp_path / "log"

    @mortal(num_returns=5, max_retries=1)
    def five():
        with open(log, "a") as file:
            file.write("run\n")
        return [np.full(SIZE, i, dtype=np.uint8) for i in range(5)]

    refs = five.remote()
    ray.wait(refs, num_returns=5, timeout=60, fetch_local=False)
    replace_the_mortal(three)
    assert [ray.get(ref, timeout=60)[0] for ref in refs] == [0, 1, 2, 3, 4]
    assert len(log_of(log)) == 2
