"""What a person at a prompt does: interrupts what takes too long, awaits at the top level, reads what a cell prints."""

import os
import pty
import queue
import select
import signal
import sys
import time

import pytest
from under_test import PATIENCE, ray_rs_only

pytestmark = [
    pytest.mark.usefixtures("no_cluster"),
    ray_rs_only("about prompts, which Ray's tests know"),
    pytest.mark.timeout(150),
]


class Kernel:
    """A Jupyter kernel, cell by cell."""

    def __init__(self, directory):
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(directory))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def begin(self, source):
        return self.client.execute(source)

    def outputs(self, cell, until=None):
        """What the cell puts out till it is done, or till `until` is in it."""
        text = ""
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"nothing more came after: {text}") from None
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            text += content.get("text", "") or "\n".join(content.get("traceback", ())) or str(content.get("data", ""))
            if (until and until in text) or content.get("execution_state") == "idle":
                return text

    def run(self, source):
        return self.outputs(self.begin(source))

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path):
    kernel = Kernel(tmp_path)
    kernel.run("import time\nimport ray_rs as ray\nray.init(num_cpus=4)")
    yield kernel
    kernel.run("ray.shutdown()")
    kernel.close()


FOREVER = """
@ray.remote
def forever():
    time.sleep(1000)

ref = forever.remote()
print("waits")
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wait", ["ray.get(ref)", "ray.wait([ref])", "ray.get(ref, timeout=500)"])
def test_interrupting_a_cell(kernel, wait):
    kernel.run(FOREVER)
    cell = kernel.begin(f"print('begins', flush=True)\n{wait}")
    kernel.outputs(cell, until="begins")
    time.sleep(0.3)
    kernel.manager.interrupt_kernel()
    text = kernel.outputs(cell)
    assert "KeyboardInterrupt" in text
    assert "42" in kernel.run(
        "ray.cancel(ref, force=True)\n@ray.remote\ndef works():\n    return 42\nray.get(works.remote())"
    )


@pytest.mark.filterwarnings("ignore")
def test_a_cell_shows_what_its_tasks_printed_alike(kernel):
    text = kernel.run(
        """
@ray.remote
def alike(n):
    time.sleep(0.2)
    print("the same line")

ray.get([alike.remote(n) for n in range(4)])
"""
    )
    later = kernel.run("time.sleep(5.5)")
    # All of it stands under the cell that caused it: the line once, and how often it came.
    assert text.count("the same line") == 2 and "[repeated 3x across cluster]" in text, text
    assert "the same line" not in later


@pytest.mark.filterwarnings("ignore")
def test_awaiting_at_the_top_level(kernel):
    text = kernel.run(
        """
import asyncio

@ray.remote
class Counter:
    async def add(self, n):
        await asyncio.sleep(0.01)
        return n + 1

counter = Counter.remote()
print(await counter.add.remote(1), await asyncio.gather(*[counter.add.remote(n) for n in range(3)]))
async for ref in ray.remote(lambda: (yield 7)).options(num_returns="streaming").remote():
    print(await ref)
"""
    )
    assert "2 [1, 2, 3]" in text and "7" in text, text


def test_ctrl_c_in_the_repl():
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # what a shell starts in the background ignores it, and so do its own
        os.environ["TERM"] = "dumb"
        os.environ["PYTHON_BASIC_REPL"] = "1"
        os.execv(sys.executable, [sys.executable, "-i", "-q"])
    seen = b""

    def read_until(wanted, since=0):
        nonlocal seen
        deadline = time.monotonic() + PATIENCE
        while wanted not in seen[since:]:
            ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{wanted!r} did not come after {seen!r}"
            seen += os.read(terminal, 65536)

    def type_in(line, wanted):
        since = len(seen)
        os.write(terminal, line)
        read_until(wanted, since)

    try:
        read_until(b">>> ")
        type_in(b"import time, ray_rs as ray\n", b">>> ")
        type_in(b"_ = ray.init(num_cpus=2)\n", b">>> ")
        type_in(b"ref = ray.remote(time.sleep if False else lambda: time.sleep(1000)).remote()\n", b">>> ")
        type_in(b"print('be' + 'gins'); ray.get(ref)\n", b"begins")
        time.sleep(0.3)
        type_in(b"\x03", b"KeyboardInterrupt")
        type_in(b"ray.get(ray.remote(lambda: 6 * 7).remote())\n", b"42")
        type_in(b"ray.cancel(ref, force=True); ray.shutdown(); print('o' + 'ver')\n", b"over")
        os.write(terminal, b"exit()\n")
    finally:
        os.waitpid(pid, 0)
        os.close(terminal)
