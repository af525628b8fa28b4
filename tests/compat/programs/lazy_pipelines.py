import ray

# Streams that feed streams, work that overlaps, and references that are passed on unopened.
import asyncio

ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)


@ray.remote(_generator_backpressure_num_objects=2)
def numbers(n):
    for i in range(n):
        yield i


@ray.remote
def square(x):
    return x * x


@ray.remote
def pairs(refs):
    for first, second in zip(refs[::2], refs[1::2]):
        yield ray.get(first), ray.get(second)


squares = [square.remote(ref) for ref in numbers.remote(8)]
print([ray.get(ref) for ref in pairs.remote(squares)])


# Fetching the next while this one is worked on.
@ray.remote(num_cpus=0)
class Source:
    def __init__(self, n):
        self.items = iter(range(n))

    def next(self):
        return next(self.items, None)


@ray.remote(num_cpus=0)
class Sink:
    def __init__(self, source):
        self.source, self.out = source, []

    def run(self):
        ahead = self.source.next.remote()
        while True:
            item, ahead = ray.get(ahead), self.source.next.remote()
            if item is None:
                return self.out
            self.out.append(item * 10)


print(ray.get(Sink.remote(Source.remote(5)).run.remote()))


# An actor that awaits references, tasks and other actors at once.
@ray.remote(num_cpus=0)
class Gatherer:
    async def total(self, refs):
        return sum(await asyncio.gather(*refs))

    async def first(self, refs):
        done, _ = await asyncio.wait([asyncio.wrap_future(ref.future()) for ref in refs], return_when="FIRST_COMPLETED")
        return len(done) >= 1

    async def guarded(self, refs):
        try:
            return await asyncio.wait_for(refs[0], 30)
        except ZeroDivisionError as error:
            return type(error.cause).__name__

    async def stream(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i * i


@ray.remote
def divide(a, b):
    return a / b


gatherer = Gatherer.remote()
print(ray.get(gatherer.total.remote(squares)), ray.get(gatherer.first.remote(squares)))
print(ray.get(gatherer.guarded.remote([divide.remote(1, 0)])), ray.get(gatherer.guarded.remote(squares[3:4])))
print([ray.get(ref) for ref in gatherer.stream.remote(4)])


async def main():
    out = []
    async for ref in gatherer.stream.remote(3):
        out.append(await ref)
    return out, await asyncio.gather(*[divide.remote(i, 2) for i in range(3)])


print(asyncio.run(main()))


# Boxes in boxes: only what stands at the top is opened.
@ray.remote
def opened(top, nested, *, named):
    return top, isinstance(nested[0], ray.ObjectRef), ray.get(nested[0]), named


inner = ray.put("inner")
print(ray.get(opened.remote(inner, [inner], named=inner)), ray.get(ray.get(ray.put([inner]))[0]))
