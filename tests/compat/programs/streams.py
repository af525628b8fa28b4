import ray

# Generators as their guide uses them: pipelines, asyncio, wait, errors, and the deprecated dynamic kind.
import asyncio
import random
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def task(n):
    for i in range(n):
        yield i


gen = task.remote(3)
print(type(gen).__name__, isinstance(gen, ray.ObjectRefGenerator))
ref = next(gen)
print(type(ref).__name__, ray.get(ref))
print([ray.get(r) for r in gen])
try:
    next(gen)
except StopIteration:
    print("StopIteration")


# A pipeline of generators: the second works on references of the first.
@ray.remote
def stage(x):
    return x * 10


print([ray.get(stage.remote(r)) for r in task.remote(4)])


# wait on generators and references together.
@ray.remote
def slow():
    time.sleep(0.3)
    return "slow"


pending = [task.remote(2), slow.remote()]
seen = []
while pending:
    ready, pending = ray.wait(pending, num_returns=1)
    for r in ready:
        if isinstance(r, ray.ObjectRefGenerator):
            try:
                seen.append(ray.get(next(r)))
            except StopIteration:
                continue
            pending.append(r)
        else:
            seen.append(ray.get(r))
print(seen)


# Errors in the middle.
@ray.remote
def breaks(n):
    for i in range(n):
        if i == 2:
            raise ValueError(f"at {i}")
        yield i


for r in breaks.remote(5):
    try:
        print(ray.get(r))
    except ValueError as e:
        print(type(e).__name__, str(e).splitlines()[-1])


# Asynchronous consumption, by several at once.
@ray.remote(num_cpus=0)
class Source:
    async def many(self, n):
        for i in range(n):
            await asyncio.sleep(0.001 * random.random())
            yield i

    def plain(self, n):
        for i in range(n):
            yield i


async def consume(generator):
    return [await r async for r in generator]


async def main():
    source = Source.remote()
    print(await asyncio.gather(consume(source.many.remote(3)), consume(source.many.remote(4)), consume(task.remote(2))))
    gen = source.many.remote(2)
    print(await (await gen.__anext__()), await (await anext(gen)))
    try:
        await anext(gen)
    except StopAsyncIteration:
        print("StopAsyncIteration")


asyncio.run(main())
source = Source.remote()
print([ray.get(r) for r in source.plain.remote(3)])
print([ray.get(r) for r in source.plain.options(num_returns="streaming").remote(2)])

# It can't be passed on.
for use in (lambda g: ray.put(g), lambda g: stage.remote(g), lambda g: ray.get(ray.put([g]))):
    try:
        use(task.remote(1))
    except TypeError as e:
        print("TypeError", "generator" in str(e).lower())

# The end of it.
gen = task.remote(2)
for _ in gen:
    pass
print(ray.get(gen.completed()), gen.is_finished())

# num_returns="dynamic" (deprecated).
import warnings

warnings.simplefilter("ignore")


@ray.remote(num_returns="dynamic")
def dynamic(n, fail=False):
    for i in range(n):
        yield i
    if fail:
        raise KeyError("dynamic")


ref = dynamic.remote(3)
gen = ray.get(ref)
print(type(ref).__name__, type(gen).__name__, [ray.get(r) for r in gen])
print([ray.get(r) for r in ray.get(task.options(num_returns="dynamic").remote(2))])


@ray.remote
def total(gen):
    return sum(ray.get(list(gen)))


print(ray.get(total.remote(dynamic.remote(4))))
ray.shutdown()
