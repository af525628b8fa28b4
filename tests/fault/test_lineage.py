"""Results that are lost are made again by running their tasks once more; here what was spilled is taken away."""

import asyncio
import glob
import os
import signal

import numpy as np
import pytest
import traces
from under_test import exceptions, ray, ray_rs_only, run_driver, wait_until

MIB = 2**20
SIZE = 5 * MIB

pytestmark = ray_rs_only("takes away files of ray_rs's own")


@pytest.fixture
def small_store():
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=100 * MIB, include_dashboard=False)
    yield
    ray.shutdown()


@ray.remote
def make(log, seed):
    with open(log, "a") as file:
        file.write(f"make {seed}\n")
    return np.full(SIZE, seed % 251, dtype=np.uint8)


@ray.remote
def plus_one(log, array):
    with open(log, "a") as file:
        file.write(f"plus_one {int(array[0])}\n")
    return array + 1


@ray.remote
def first_of(array):
    return int(array[0])


@ray.remote
def first_inside(box):
    return int(ray.get(box[0])[0])


@ray.remote
class Reader:
    def first(self, array):
        return int(array[0])


@ray.remote
class AsyncReader:
    async def first(self, array):
        return int(array[0])


def spill_files():
    return [
        path
        for path in glob.glob(f"{traces.session_root()}/session_2*/spilled/**", recursive=True)
        if os.path.isfile(path) and "#" not in path
    ]


def lose_all_but_the_newest(refs):
    """Pushes these objects out of the store, and their files away."""
    ray.wait(refs, num_returns=len(refs), timeout=60)
    filler = [ray.put(np.zeros(SIZE, dtype=np.uint8)) for _ in range(40)]
    wait_until(spill_files, "some to be written")
    for path in spill_files():
        os.unlink(path)
    del filler


def runs(log, what="make"):
    return [line for line in log.read_text().splitlines() if line.startswith(what)]


@pytest.mark.usefixtures("small_store")
def test_every_lost_result_comes_back_and_what_is_there_is_not_made_again(tmp_path):
    log = tmp_path / "log"
    refs = [make.remote(str(log), i) for i in range(30)]
    lose_all_but_the_newest(refs)
    for i, ref in enumerate(refs):
        assert (ray.get(ref) == i).all()
    made = len(runs(log))
    assert 45 <= made <= 60
    assert ray.get(refs[0])[0] == 0


@pytest.mark.usefixtures("small_store")
def test_a_damaged_file_is_as_good_as_none(tmp_path):
    log = tmp_path / "log"
    refs = [make.remote(str(log), i) for i in range(40)]
    ray.wait(refs, num_returns=40, timeout=60)
    for path in spill_files():
        with open(path, "r+b") as file:
            for at in range(1000, os.fstat(file.fileno()).st_size, 2 * MIB):
                file.seek(at)
                file.write(b"\xff\xfe")
    assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))
    assert len(runs(log)) >= 50


@pytest.mark.usefixtures("small_store")
def test_wherever_it_is_needed(tmp_path):
    log = str(tmp_path / "log")
    reader, loop = Reader.remote(), AsyncReader.remote()
    refs = [make.remote(log, i) for i in range(10)]
    lose_all_but_the_newest(refs)

    async def awaited():
        return (await refs[0])[0]

    assert ray.get(first_of.remote(refs[1]), timeout=60) == 1
    assert ray.get(reader.first.remote(refs[2]), timeout=60) == 2
    assert ray.get(loop.first.remote(refs[3]), timeout=60) == 3
    assert ray.get(first_inside.remote([refs[4]]), timeout=60) == 4
    assert asyncio.run(awaited()) == 0
    assert refs[5].future().result(timeout=60)[0] == 5
    assert [array[0] for array in ray.get(refs[6:8], timeout=60)] == [6, 7]

    @ray.remote
    class Holder:
        def __init__(self, array):
            self.array = array

        def first(self):
            return int(self.array[0])

    assert ray.get(Holder.remote(refs[8]).first.remote(), timeout=60) == 8
    assert len(runs(tmp_path / "log")) == 19


@pytest.mark.usefixtures("small_store")
def test_many_who_need_it_have_it_made_once(tmp_path):
    log = tmp_path / "log"
    ref = make.remote(str(log), 7)
    lose_all_but_the_newest([ref])
    needs = [first_of.remote(ref) for _ in range(10)] + [first_inside.remote([ref]) for _ in range(10)]
    assert ray.get(ref, timeout=60)[0] == 7
    assert ray.get(needs, timeout=60) == [7] * 20
    assert len(runs(log)) == 2


@pytest.mark.usefixtures("small_store")
def test_what_it_was_made_of_is_made_again_too(tmp_path):
    log = tmp_path / "log"
    ref = make.remote(str(log), 0)
    for _ in range(4):
        ref = plus_one.remote(str(log), ref)
    # Only the last is held: what lies between is freed.
    lose_all_but_the_newest([ref])
    assert (ray.get(ref, timeout=60) == 4).all()
    assert len(runs(log)) == 2 and len(runs(log, "plus_one")) == 8


@pytest.mark.usefixtures("small_store")
def test_what_was_put_stays_as_long_as_it_may_be_needed(tmp_path):
    log = tmp_path / "log"
    put = ray.put(np.full(SIZE, 6, dtype=np.uint8))
    ref = plus_one.remote(str(log), put)
    by_value = plus_one.remote(str(log), np.full(SIZE, 8, dtype=np.uint8))
    ray.wait([ref, by_value], num_returns=2)
    del put
    # Results only: in the store's least recently used order these go first.
    for path_of in (ref, by_value):
        ray.get(path_of)
    results = [make.remote(str(log), i) for i in range(12)]
    ray.wait(results, num_returns=12)
    values = ray.get([first_of.remote(ref), first_of.remote(by_value)], timeout=60)
    assert values == [7, 9]


@pytest.mark.usefixtures("small_store")
def test_only_the_return_that_is_lost_is_replaced(tmp_path):
    log = tmp_path / "log"

    @ray.remote(num_returns=3)
    def several(log):
        with open(log, "a") as file:
            file.write("make\n")
        return np.full(SIZE, os.getpid() % 200, dtype=np.uint8), os.urandom(8), np.full(SIZE, 3, dtype=np.uint8)

    first, small, third = several.remote(str(log))
    token, view = ray.get(small), ray.get(third)
    # It is looked at, so it stays in memory.
    lose_all_but_the_newest([first])
    assert len(ray.get(first, timeout=60)) == SIZE
    assert len(runs(log)) == 2
    assert ray.get(small) == token
    assert np.shares_memory(ray.get(third), view)


@pytest.mark.usefixtures("small_store")
def test_it_is_made_again_as_often_as_it_may_be(tmp_path):
    log = tmp_path / "log"
    ref = make.options(max_retries=2).remote(str(log), 1)
    for _ in range(2):
        lose_all_but_the_newest([ref])
        assert ray.get(ref, timeout=60)[0] == 1
    lose_all_but_the_newest([ref])
    with pytest.raises(
        exceptions.ObjectReconstructionFailedError, match=r"spill file.*as often as it may.*max_retries"
    ):
        ray.get(ref, timeout=60)
    with pytest.raises(exceptions.ObjectLostError, match="as often as it may"):
        ray.get(first_of.remote(ref), timeout=60)
    assert len(runs(log)) == 3


@pytest.mark.usefixtures("small_store")
def test_what_is_not_made_again_says_why(tmp_path):
    log = str(tmp_path / "log")

    @ray.remote
    class Maker:
        def make(self):
            return np.zeros(SIZE, dtype=np.uint8)

        def items(self):
            yield np.zeros(SIZE, dtype=np.uint8)

    @ray.remote(max_retries=0)
    def items():
        yield np.zeros(SIZE, dtype=np.uint8)

    maker = Maker.remote()
    reasons = {
        ray.put(np.zeros(SIZE, dtype=np.uint8)): r"ray\.put",
        make.options(max_retries=0).remote(log, 1): "max_retries=0",
        maker.make.remote(): "actor's method",
        next(maker.items.remote()): "actor's method",
        next(items.remote()): "max_retries=0",
    }
    lose_all_but_the_newest(list(reasons))
    for ref, reason in reasons.items():
        for read in (lambda ref=ref: ray.get(ref), lambda ref=ref: ray.get(first_of.remote(ref), timeout=60)):
            with pytest.raises(exceptions.ObjectReconstructionFailedError, match=rf"spill file.*{reason}"):
                read()


@pytest.mark.usefixtures("small_store")
def test_lost_items_of_a_generator_come_back(tmp_path):
    log = tmp_path / "log"

    @ray.remote
    def items(count):
        with open(log, "a") as file:
            file.write("run\n")
        for i in range(count):
            yield np.full(SIZE, i, dtype=np.uint8)

    generator = items.remote(3)
    refs = list(generator)
    lose_all_but_the_newest(refs)
    assert ray.get(refs[2], timeout=60)[0] == 2
    assert ray.get(first_of.remote(refs[0]), timeout=60) == 0
    assert ray.get(refs[1], timeout=60)[0] == 1
    assert 2 <= len(log.read_text().splitlines()) <= 4, "those in one file come from one run, or each from its own"


@pytest.mark.usefixtures("small_store")
def test_an_error_of_the_second_try_is_the_result(tmp_path):
    ran = tmp_path / "ran"

    @ray.remote
    def once(ran):
        if os.path.exists(ran):
            raise KeyError("twice")
        with open(ran, "w"):
            return np.zeros(SIZE, dtype=np.uint8)

    ref = once.remote(str(ran))
    lose_all_but_the_newest([ref])
    with pytest.raises(KeyError, match="twice"):
        ray.get(ref, timeout=60)
    with pytest.raises(KeyError, match="twice"):
        ray.get(first_of.remote(ref), timeout=60)


@pytest.mark.usefixtures("small_store")
def test_a_task_that_runs_again_is_retried_and_cancelled_like_any_other(tmp_path):
    log = tmp_path / "log"

    @ray.remote
    def dies_the_second_time(log):
        with open(log, "a+") as file:
            file.seek(0)
            before = len(file.readlines())
            file.write("make\n")
        if before == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full(SIZE, before, dtype=np.uint8)

    @ray.remote
    def hangs_the_second_time(ran):
        if os.path.exists(ran):
            with open(f"{ran}-again", "w"):
                pass
            signal.pause()
        with open(ran, "w"):
            return np.zeros(SIZE, dtype=np.uint8)

    died = dies_the_second_time.remote(str(log))
    hung = hangs_the_second_time.remote(str(tmp_path / "ran"))
    lose_all_but_the_newest([died, hung])
    assert ray.get(died, timeout=60)[0] == 2
    assert ray.wait([hung], timeout=0) == ([hung], [])
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(hung, timeout=0.5)
    assert ray.wait([hung], timeout=0) == ([], [hung])
    wait_until((tmp_path / "ran-again").exists, "the second try")
    ray.cancel(hung)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(hung, timeout=60)


@pytest.mark.usefixtures("small_store")
def test_a_borrower_hears_of_it(tmp_path):
    log = tmp_path / "log"

    @ray.remote
    class Borrower:
        def take(self, box):
            self.ref = box[0]
            return int(ray.get(self.ref)[0])

        def again(self):
            return int(ray.get(self.ref)[0])

    @ray.remote
    class Owner:
        def made(self, log):
            self.ref = make.remote(log, 3)
            return [self.ref]

    borrower, owner = Borrower.remote(), Owner.remote()
    mine = make.remote(str(log), 2)
    [its] = ray.get(owner.made.remote(str(log)))
    assert ray.get(borrower.take.remote([mine])) == 2
    assert ray.get(its)[0] == 3
    lose_all_but_the_newest([mine, its])
    assert ray.get(borrower.again.remote(), timeout=60) == 2
    assert ray.get(its, timeout=60)[0] == 3
    assert len(runs(log)) == 4


def test_the_specs_of_the_oldest_tasks_go_when_there_are_too_many(no_cluster, tmp_path):
    body = f"""
        import sys
        sys.path[:0] = {[os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]!r}
        from test_lineage import *
        ray.init(num_cpus=2, object_store_memory=100 * MIB)
        refs = [make.remote({str(tmp_path / "log")!r}, i) for i in range(10)]
        lose_all_but_the_newest(refs)
        said = []
        for ref in refs:
            try:
                ray.get(ref, timeout=60)
                said.append("")
            except exceptions.ObjectReconstructionFailedError as error:
                said.append(str(error))
        assert all("RAY_max_lineage_bytes" in text for text in said[:5]), said
        assert said[-1] == "", said
        """
    run_driver(body, env={"RAY_max_lineage_bytes": "2000"})
