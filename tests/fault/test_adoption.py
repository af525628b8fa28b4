"""FT-4: the death of a worker does not lose what others hold: they have the values, or adopt the objects."""

import os
import signal

import numpy as np
import pytest
from under_test import contents, exceptions, ray, ray_rs_only, run_driver, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("Ray loses them with their owner")]

LARGE = 2**20


def note(log, line):
    with open(log, "a") as file:
        file.write(f"{line}\n")


def lines(log):
    return contents(log).split()


def wait_for(path):
    """Whether it is there already. It is made by the test, once the owner is dead."""
    wait_until(lambda: os.path.exists(path), f"{path} to be made")


@ray.remote
def small(number):
    return {"number": number}


@ray.remote
def large(number):
    return np.full(LARGE, number, dtype=np.uint8)


@ray.remote(num_cpus=0)
def held_up(go, log, number, size=None):
    """Ends when the test says so."""
    note(log, number)
    wait_for(go)
    return number if size is None else np.full(size, number, dtype=np.uint8)


@ray.remote(num_cpus=0)
def plus(one, other):
    return one + other


@ray.remote(num_cpus=0)
class Owner:
    def pid(self):
        return os.getpid()

    def small_ones(self):
        return [ray.put(b"put"), ray.put([ray.put("inside")]), small.remote(7)]

    def ended_small_ones(self):
        refs = [small.remote(i) for i in range(20)]
        ray.wait(refs, num_returns=20)
        return refs

    def large_ones(self):
        refs = [ray.put(np.full(LARGE, 1, dtype=np.uint8)), large.remote(2), large.options(max_retries=0).remote(3)]
        ray.wait(refs, num_returns=3)
        return refs

    def large_put(self):
        return [ray.put(np.full(LARGE, 5, dtype=np.uint8))]

    def pending(self, go, log, numbers, **options):
        return [held_up.options(**options).remote(go, log, number) for number in numbers]

    def pending_large(self, go, log):
        return [held_up.remote(go, log, 9, LARGE)]

    def chain(self, go, log, given):
        first = held_up.remote(go, log, 1)
        second = plus.remote(first, given[0])
        return [plus.remote(second, ray.put(1000))]

    def call_of(self, actor):
        return [actor.late.remote()]

    def give(self, other, refs):
        return ray.get(other.take.remote(refs))


@ray.remote(num_cpus=0)
class Holder:
    def pid(self):
        return os.getpid()

    def take(self, refs):
        self.refs = refs

    def hand_on(self, other):
        ray.get(other.take.remote(self.refs))

    def let_go(self):
        self.refs = None

    def values(self):
        return [value if isinstance(value, (int, bytes, dict)) else int(value[0]) for value in ray.get(self.refs)]


def kill(actor):
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the process to end")


@pytest.fixture
def files(tmp_path):
    """A file that tells tasks to end, and one where they say that they have begun."""
    return str(tmp_path / "go"), str(tmp_path / "log")


def go_on(go):
    with open(go, "w"):
        pass


def objects_in_store():
    from ray_rs._core import store_objects

    return len(store_objects())


def test_small_values_are_with_their_references():
    owner = Owner.remote()
    refs = ray.get(owner.small_ones.remote())
    ended = ray.get(owner.ended_small_ones.remote())
    kill(owner)
    put, box, result = ray.get(refs)
    assert put == b"put" and ray.get(box[0]) == "inside" and result == {"number": 7}
    assert ray.get(ended) == [{"number": i} for i in range(20)]


def test_large_values_stay_in_the_store_until_the_last_reference_goes():
    before = objects_in_store()
    owner = Owner.remote()
    refs = ray.get(owner.large_ones.remote())
    kill(owner)
    assert [int(ray.get(ref)[0]) for ref in refs] == [1, 2, 3]
    assert int(ray.get(plus.remote(refs[0], refs[1]))[-1]) == 3, "they are arguments like any others"
    del refs
    wait_until(lambda: objects_in_store() == before, "the store to be as it was")


def test_a_task_that_returns_references_and_is_killed_at_once():
    @ray.remote(max_retries=0)
    def outer():
        return os.getpid(), [small.remote(i) for i in range(50)], [ray.put(np.full(LARGE, 4, dtype=np.uint8))]

    pid, refs, [put] = ray.get(outer.remote())
    os.kill(pid, signal.SIGKILL)
    assert ray.get(refs, timeout=60) == [{"number": i} for i in range(50)]
    assert int(ray.get(put, timeout=60)[0]) == 4


def test_tasks_that_had_not_ended_are_run_again(files):
    go, log = files
    owner = Owner.remote()
    refs = ray.get(owner.pending.remote(go, log, [1, 2, 3]))
    refs += ray.get(owner.pending_large.remote(go, log))
    wait_until(lambda: len(lines(log)) == 4, "all tasks to begin")
    kill(owner)
    wait_until(lambda: len(lines(log)) == 8, "all tasks to begin once more")
    go_on(go)
    assert ray.get(refs[:3], timeout=60) == [1, 2, 3]
    assert int(ray.get(refs[3], timeout=60)[0]) == 9
    assert len(lines(log)) == 8


def test_what_they_depend_on_is_made_first(files):
    go, log = files
    owner = Owner.remote()
    given = ray.put(10)
    [end] = ray.get(owner.chain.remote(go, log, [given]))
    del given  # only the chain needs it now
    wait_until(lambda: lines(log) == ["1"], "the first task to begin")
    kill(owner)
    wait_until(lambda: lines(log) == ["1", "1"], "the first task to begin once more")
    go_on(go)
    assert ray.get(end, timeout=60) == 1011


def test_one_of_all_holders_adopts(files):
    go, log = files
    owner, first, second = Owner.remote(), Holder.remote(), Holder.remote()
    refs = ray.get(owner.pending.remote(go, log, [5]))
    ray.get([first.take.remote(refs), second.take.remote(refs)])
    wait_until(lambda: lines(log) == ["5"], "the task to begin")
    kill(owner)
    wait_until(lambda: len(lines(log)) == 2, "the task to begin once more")
    go_on(go)
    assert ray.get([first.values.remote(), second.values.remote()], timeout=60) == [[5], [5]]
    assert ray.get(refs, timeout=60) == [5]
    assert lines(log) == ["5", "5"], "it has run once more, not once for each"


def test_a_borrower_of_a_borrower_has_it_alone(files):
    go, log = files
    owner, first, second = Owner.remote(), Holder.remote(), Holder.remote()
    ray.get(owner.give.remote(first, ray.get(owner.pending.remote(go, log, [6])) + ray.get(owner.large_put.remote())))
    ray.get(first.hand_on.remote(second))
    ray.get(first.let_go.remote())
    wait_until(lambda: lines(log) == ["6"], "the task to begin")
    kill(owner)
    go_on(go)
    assert ray.get(second.values.remote(), timeout=60) == [6, 5]


def test_an_adopter_that_dies_is_followed_by_another():
    before = objects_in_store()
    owner, *holders = Owner.remote(), Holder.remote(), Holder.remote(), Holder.remote()
    refs = ray.get(owner.large_put.remote())
    ray.get([holder.take.remote(refs) for holder in holders])
    del refs
    kill(owner)
    while len(holders) > 1:
        assert ray.get([holder.values.remote() for holder in holders], timeout=60) == [[5]] * len(holders)
        kill(holders.pop())
    assert ray.get(holders[0].values.remote(), timeout=60) == [5]
    ray.get(holders[0].let_go.remote())
    wait_until(lambda: objects_in_store() == before, "the store to be as it was")


def test_one_that_must_not_run_again_is_lost_with_a_reason(files):
    go, log = files
    owner = Owner.remote()
    refs = ray.get(owner.pending.remote(go, log, [1], max_retries=0))
    wait_until(lambda: lines(log) == ["1"], "the task to begin")
    kill(owner)
    with pytest.raises(exceptions.OwnerDiedError, match="nothing came with its reference"):
        ray.get(refs[0], timeout=60)
    assert lines(log) == ["1"]


def test_results_of_an_actors_methods():
    """One that has come is there; one that has not is nobody's to ask for again."""

    @ray.remote(num_cpus=0)
    class Late:
        def __init__(self):
            self.called = 0

        def late(self):
            self.called += 1
            if self.called == 2:
                signal.pause()
            return self.called

    owner, actor = Owner.remote(), Late.remote()
    [first] = ray.get(owner.call_of.remote(actor))
    ray.wait([first], timeout=60)
    [second] = ray.get(owner.call_of.remote(actor))
    kill(owner)
    assert ray.get(first, timeout=60) == 1
    with pytest.raises(exceptions.OwnerDiedError):
        ray.get(second, timeout=60)
    ray.kill(actor)


def test_what_nobody_adopts_goes_after_a_while(no_cluster):
    run_driver(
        """
        import glob, os, signal, time
        import numpy as np
        from ray_rs._core import store_objects

        ray.init(num_cpus=2, include_dashboard=False)

        @ray.remote(num_cpus=0)
        class Owner:
            def give(self, other):
                self.ref = ray.put(np.ones(1 << 20))
                ray.get(other.take.remote([self.ref]))
                return os.getpid()

        @ray.remote(num_cpus=0)
        class Holder:
            def take(self, refs):
                self.refs = refs

            def pid(self):
                return os.getpid()

        owner, holder = Owner.remote(), Holder.remote()
        holders_pid = ray.get(holder.pid.remote())
        owners_pid = ray.get(owner.give.remote(holder))
        assert len(store_objects()) == 1
        os.kill(holders_pid, signal.SIGSTOP)  # it cannot say that it has it
        threads = f"/proc/{holders_pid}/task/*/stat"
        while {open(path).read().rpartition(")")[2].split()[0] for path in glob.glob(threads)} != {"T"}:
            time.sleep(0.001)  # a thread that has not been scheduled since then is not stopped yet
        os.kill(owners_pid, signal.SIGKILL)
        while store_objects():
            time.sleep(0.05)
        os.kill(holders_pid, signal.SIGKILL)
        """,
        env={"RAY_RS_ORPHANS_KEPT_S": "1"},
    )
