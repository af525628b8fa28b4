import ray

# Remote generators: items as they are made, errors in their place, of tasks and of actors; and with a fixed number.
import asyncio
import time

import numpy as np

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def count(n):
    for i in range(n):
        yield i


@ray.remote
def add(x, y=100):
    return x + y


made = count.remote(4)
print(type(made).__name__, [ray.get(ref) for ref in made])
print(ray.get([add.remote(ref) for ref in count.remote(3)]))
for _ in made:
    print("never")
try:
    next(made)
except StopIteration:
    print("StopIteration")
print(list(count.remote(0)))


# An item is there long before the end.
@ray.remote
def slow():
    yield "first"
    time.sleep(60)
    yield "last"


made = slow.remote()
print(ray.get(next(made)))
ready, rest = ray.wait([made], timeout=0.1)
print(ready == [], rest == [made])
ready, rest = ray.wait([made, add.remote(1)], num_returns=1, timeout=30)
print(type(ready[0]).__name__)


# An error comes after the items before it.
@ray.remote
def fails(n):
    for i in range(n):
        yield i
    raise ValueError("in the middle")


results = []
for ref in fails.remote(2):
    try:
        results.append(ray.get(ref))
    except ValueError as error:
        results.append(type(error).__name__)
print(results)


# Arrays, and a generator's consumer in a task.
@ray.remote
def blocks(n):
    for i in range(n):
        yield np.full(50_000, i)


print([int(ray.get(ref).sum()) for ref in blocks.remote(3)])


@ray.remote
def consume(n):
    return sum(ray.get(ref) for ref in count.remote(n))


print(ray.get(consume.remote(5)))


# With a fixed number of returns.
@ray.remote(num_returns=3)
def three():
    for word in ("a", "b", "c"):
        yield word


print(ray.get(three.remote()))


# Actors: plain and asynchronous.
@ray.remote
class Source:
    def __init__(self):
        self.made = 0

    def items(self, n):
        for _ in range(n):
            self.made += 1
            yield self.made

    @ray.method(num_returns="streaming")
    def declared(self):
        yield "declared"


source = Source.remote()
print([ray.get(ref) for ref in source.items.remote(3)], [ray.get(ref) for ref in source.items.remote(2)])
print([ray.get(ref) for ref in source.declared.remote()])


@ray.remote
class AsyncSource:
    async def items(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def square(self, x):
        return x * x


source = AsyncSource.remote()
first, second = source.items.remote(3), source.items.remote(3)
print([ray.get(next(each)) for each in (first, second, first, second, first, second)])


async def main():
    items = []
    async for ref in source.items.remote(4):
        items.append(await source.square.remote(ref))
    return items


print(asyncio.run(main()))
