"""What others hold of a worker's objects outlives it, and its node, when they are on different nodes."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from under_test import contents, exceptions, ray, ray_rs_only, wait_until

pytestmark = ray_rs_only("Ray loses them with their owner")

LARGE = 2**20


@pytest.fixture
def three(ray_cluster):
    """The driver's node, one that owners are on, and a third."""
    return ray_cluster(
        [{"num_cpus": 2}, {"num_cpus": 2, "resources": {"mortal": 2}}, {"num_cpus": 2, "resources": {"third": 2}}]
    )


@ray.remote
def small(number):
    return {"number": number}


@ray.remote
def large(number):
    return np.full(LARGE, number, dtype=np.uint8)


@ray.remote(num_cpus=0)
def held_up(go, log, number):
    with open(log, "a") as file:
        file.write(f"{number}\n")
    wait_until(lambda: os.path.exists(go), "the test to say so")
    return number


@ray.remote(num_cpus=0, resources={"mortal": 0.1})
class Owner:
    def pid(self):
        return os.getpid()

    def own(self, go, log):
        there = {"num_cpus": 0, "resources": {"third": 0.1}}
        ended = [ray.put({"number": 0}), small.options(**there).remote(1), large.options(**there).remote(2)]
        ray.wait(ended, num_returns=3)
        return [*ended, held_up.options(**there).remote(go, log, 3), ray.put(np.full(LARGE, 4, dtype=np.uint8))]


@ray.remote(num_cpus=0, resources={"third": 0.1})
class Holder:
    def pid(self):
        return os.getpid()

    def take(self, refs):
        self.refs = refs

    def value(self, index):
        value = ray.get(self.refs[index])
        return value if isinstance(value, (int, dict)) else int(value[0])


def states_of_threads(pid):
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")}


def held_by_two(tmp_path):
    """An owner, its process, what it owns (held here and on the third node), and the way to have its task end."""
    go, log = str(tmp_path / "go"), str(tmp_path / "log")
    owner, holder = Owner.remote(), Holder.remote()
    pid = ray.get(owner.pid.remote(), timeout=60)
    refs = ray.get(owner.own.remote(go, log), timeout=60)
    ray.get(holder.take.remote(refs), timeout=60)
    wait_until(lambda: contents(log).split() == ["3"], "the task to begin")

    def end():
        wait_until(lambda: contents(log).split() == ["3", "3"], "the task to begin once more")
        with open(go, "w"):
            pass

    # Without a handle it would end by itself.
    return owner, pid, refs, holder, end


def test_the_owners_process(three, tmp_path):
    _owner, pid, refs, holder, end = held_by_two(tmp_path)
    os.kill(pid, signal.SIGKILL)
    end()
    assert ray.get(refs[:2], timeout=60) == [{"number": 0}, {"number": 1}]
    assert [int(ray.get(ref, timeout=60)[0]) for ref in (refs[2], refs[4])] == [2, 4]
    assert ray.get(refs[3], timeout=60) == 3
    values = ray.get([holder.value.remote(index) for index in range(5)], timeout=60)
    assert values == [{"number": 0}, {"number": 1}, 2, 3, 4]


def test_the_owners_node(three, tmp_path):
    _owner, _, refs, holder, end = held_by_two(tmp_path)
    three.remove_node(three.nodes[1], allow_graceful=False)
    end()
    assert ray.get(refs[:2], timeout=60) == [{"number": 0}, {"number": 1}]
    assert int(ray.get(refs[2], timeout=60)[0]) == 2, "it lay on the third node"
    assert ray.get(refs[3], timeout=60) == 3
    with pytest.raises(exceptions.OwnerDiedError):
        ray.get(refs[4], timeout=60)
    assert ray.get([holder.value.remote(index) for index in range(4)], timeout=60) == [
        {"number": 0},
        {"number": 1},
        2,
        3,
    ]


def test_the_control_store_is_killed_after_it_has_chosen(three, tmp_path):
    """A holder that asks the new one is told of the same adopter: the task does not run a third time."""
    _owner, pid, refs, holder, end = held_by_two(tmp_path)
    holders_pid = ray.get(holder.pid.remote(), timeout=60)
    os.kill(holders_pid, signal.SIGSTOP)
    # A thread that has not been scheduled since then is not stopped yet.
    wait_until(lambda: states_of_threads(holders_pid) == {"T"}, "the holder to stop")
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: contents(tmp_path / "log").split() == ["3", "3"], "the task to begin once more, for this process"
    )

    def gcs_pid():
        with open(f"{three.head_node.session_dir}/session.json") as file:
            return json.load(file)["gcs_pid"]

    killed = gcs_pid()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: gcs_pid() != killed, "another control store")
    os.kill(holders_pid, signal.SIGCONT)
    value = holder.value.remote(3)
    end()
    assert ray.get([value, refs[3]], timeout=60) == [3, 3]
    assert contents(tmp_path / "log").split() == ["3", "3"]
