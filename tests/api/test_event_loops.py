"""Tasks that are no coroutines but run some, on event loops of their own."""

import asyncio
import time

import pytest
from under_test import ray, ray_rs_only, wait_until


def in_coroutine(depth):
    """Each level runs an event loop of its own, and awaits the next on it."""
    if depth == 0:
        return 0

    async def main():
        return await ray.remote(in_coroutine).remote(depth - 1) + 1

    return asyncio.run(main())


def first_of_two():
    async def main():
        fast, never = ray.remote(lambda: 5).remote(), asyncio.Event()
        waits = [asyncio.ensure_future(each) for each in (wrapped(fast), never.wait())]
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        rest.pop().cancel()
        return done.pop().result()

    async def wrapped(ref):
        return await ref

    return asyncio.run(main())


@pytest.mark.parametrize(("function", "arguments", "expected"), [(in_coroutine, (3,), 3), (first_of_two, (), 5)])
@ray_rs_only("Ray keeps the CPU of a task that awaits, and waits for ever")
def test_a_task_that_awaits_lends_its_cpu(no_cluster, function, arguments, expected):
    ray.init(num_cpus=1)
    for _ in range(3):
        assert ray.get(ray.remote(function).remote(*arguments), timeout=30) == expected
    wait_until(lambda: ray.available_resources().get("CPU") == 1, "the CPU to be free again")


@ray_rs_only("Ray keeps the CPU of a task that awaits")
def test_a_task_with_other_work_keeps_its_cpu(no_cluster, tmp_path):
    ray.init(num_cpus=1)

    def computes(order):
        async def busy():
            # The loop gets round in between, and finds that there is more to do.
            for _ in range(30):
                time.sleep(0.005)
                await asyncio.sleep(0)
            with open(order, "a") as file:
                file.write("computed ")

        async def main():
            def note():
                with open(order, "a") as file:
                    file.write("began ")

            ref = ray.remote(note).remote()

            async def other():
                await ref

            await asyncio.gather(other(), busy())

        asyncio.run(main())

    ray.get(ray.remote(computes).remote(str(tmp_path / "order")), timeout=30)
    assert (tmp_path / "order").read_text() == "computed began "
