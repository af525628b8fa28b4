"""A head with something of everything in it, for those who look at it."""

import os
import time

import pytest
import traces
from heads import Head, command
from under_test import ray, wait_until

LINE = "the needle in the log"


@pytest.fixture(autouse=True)
def _leak_check():
    """The head lives through the tests of a module; what is left is looked for at its end."""


@pytest.fixture(scope="module")
def head():
    ray.shutdown()
    yield Head()
    ray.shutdown()
    command("stop")
    wait_until(lambda: not traces.processes() and not traces.session_files(), "everything to be gone")


class Busy:
    """What goes on on the head, and what each of it is called."""

    def __init__(self, scratch):
        self.gate = f"{scratch}/gate"

        @ray.remote(num_cpus=0)
        def quick(number):
            import time

            # Long enough for some column of a timeline to be mostly this.
            time.sleep(0.001)
            return number

        @ray.remote(num_cpus=0, max_retries=0)
        def broken():
            raise ValueError("broken on purpose")

        @ray.remote(num_cpus=0)
        def waits_at_the_gate(gate):
            import time

            print(LINE, flush=True)
            while not os.path.exists(gate):
                time.sleep(0.01)

        @ray.remote(num_cpus=64)
        def too_large():
            return None

        @ray.remote(num_cpus=0)
        class Counter:
            def process(self):
                return os.getpid()

        self.counter = Counter.options(name="counter <b>of</b> things").remote()
        self.counter_pid = ray.get(self.counter.process.remote())
        self.large = ray.put(bytes(5 << 20))
        self.group = ray.util.placement_group([{"CPU": 1}], name="a group")
        ray.get(self.group.ready(), timeout=20)
        ray.get([quick.remote(number) for number in range(300)])
        with pytest.raises(ValueError):
            ray.get(broken.remote())
        self.running = waits_at_the_gate.remote(self.gate)
        self.waiting = too_large.remote()


@pytest.fixture(scope="module")
def busy(head, tmp_path_factory):
    context = ray.init(address=head.address, log_to_driver=False, namespace="page")
    made = Busy(tmp_path_factory.mktemp("page"))
    from ray_rs.util import state

    def settled():
        told = state.summarize_tasks()["cluster"]["summary"]
        counts = {name.rpartition(".")[2]: row["state_counts"] for name, row in told.items()}
        return (
            counts.get("quick") == {"FINISHED": 300}
            and counts.get("broken") == {"FAILED": 1}
            and "RUNNING" in counts.get("waits_at_the_gate", ())
        )

    wait_until(settled, "the tasks to be known", 20)
    made.context = context
    yield made
    open(made.gate, "w").close()
    ray.get(made.running, timeout=20)
    ray.cancel(made.waiting)
    ray.shutdown()


def eventually(found, what, limit=15):
    """What `found` gives as soon as that is something."""
    deadline = time.monotonic() + limit
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {limit} s"
        time.sleep(0.02)
    return value
