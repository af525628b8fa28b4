"""What type checkers must refuse: each line that says `error` below, and no other. Checked by `test_checkers.py`."""

from collections.abc import Iterator

import ray_rs as ray


@ray.remote
def f(x: int, y: str = "") -> bytes:
    return b""


@ray.remote
def items(count: int) -> Iterator[str]:
    yield "a"


text = ray.put("text")
number = ray.put(1)

f.remote("1")  # error: the wrong type
f.remote(x="1")  # error: the wrong type, by keyword
f.remote(text)  # error: a reference to the wrong type
f.remote(1, number)  # error: the same, further on
f.remote()  # error: too few
f.remote(1, "a", 2)  # error: too many
f.remote(number, "a", 2)  # error: too many, beside a reference
f.remote(1, z=2)  # error: no such parameter
f.options(num_cpu=1).remote(1)  # error: no such option
f.options(num_cpus="1").remote(1)  # error: an option of the wrong type
f(1)  # not an error to a checker: it raises TypeError
length: int = ray.get(f.remote(1))  # error: the value is bytes
sum_: int = f.remote(1)  # error: a reference is not its value
items.remote("a")  # error: the wrong type
ray.get(1)  # error: not a reference
ray.wait(number)  # error: not a list


@ray.remote
class Counter:
    def __init__(self, start: int) -> None: ...

    @ray.method
    def add(self, k: int) -> int:
        return k

    @ray.method
    async def slowly(self, k: int) -> int:
        return self.add("1")  # error: the method on the instance


Counter.remote("1")  # error: the wrong type
Counter.remote()  # error: too few
Counter.options(nam="x").remote(1)  # error: no such option
counter = Counter.remote(1)
counter.add.remote("1")  # error: the wrong type
counter.add.remote(text)  # error: a reference to the wrong type
counter.add.remote()  # error: too few
counter.ad.remote(1)  # error: no such method
counted: str = ray.get(counter.slowly.remote(1))  # error: the value is an int
