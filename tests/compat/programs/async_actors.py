import ray

# Actors with an event loop, and asyncio in the driver.
import asyncio
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote(num_cpus=0)
class SignalActor:
    def __init__(self):
        self.event = asyncio.Event()
        self.waiters = 0

    def send(self, clear=False):
        self.event.set()
        if clear:
            self.event.clear()

    async def wait(self, should_wait=True):
        if should_wait:
            self.waiters += 1
            await self.event.wait()
            self.waiters -= 1
        return "passed"

    async def num_waiters(self):
        return self.waiters


signal = SignalActor.remote()


@ray.remote(num_cpus=0)
def blocked(signal, i):
    ray.get(signal.wait.remote())
    return i


waiting = [blocked.remote(signal, i) for i in range(3)]
direct = [signal.wait.remote() for _ in range(5)]
while ray.get(signal.num_waiters.remote()) < 8:
    time.sleep(0.01)
print(len(ray.wait(waiting + direct, num_returns=8, timeout=0.1)[0]))
ray.get(signal.send.remote())
print(ray.get(waiting), ray.get(direct), ray.get(signal.num_waiters.remote()))


# As many at once as `max_concurrency` says.
@ray.remote(max_concurrency=3)
class Limited:
    def __init__(self):
        self.inside, self.most = 0, 0

    async def work(self):
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.01)
        self.inside -= 1
        return self.most


limited = Limited.remote()
print(max(ray.get([limited.work.remote() for _ in range(20)])))


# Awaiting references inside; locks, queues, gather, timeouts.
@ray.remote
def double(x):
    return 2 * x


@ray.remote
def fail():
    raise LookupError("not found")


@ray.remote
class Service:
    def __init__(self):
        self.lock, self.queue, self.log = asyncio.Lock(), asyncio.Queue(maxsize=2), []

    async def quadruple(self, x):
        return await double.remote(await double.remote(x))

    async def all(self, xs):
        return await asyncio.gather(*[double.remote(x) for x in xs])

    async def careful(self):
        try:
            await fail.remote()
        except LookupError as error:
            return type(error).__name__

    async def put(self, x):
        await self.queue.put(x)

    async def take(self):
        return await self.queue.get()

    async def in_turn(self, name):
        async with self.lock:
            self.log.append(name)
            await asyncio.sleep(0)
            self.log.append(name)
        return self.log

    async def too_long(self):
        try:
            await asyncio.wait_for(asyncio.sleep(100), 0.01)
        except asyncio.TimeoutError:
            return "timed out"

    def plain(self):
        return "plain"

    async def ask(self, other, x):
        return await other.quadruple.remote(x)

    async def refuse(self):
        raise PermissionError("no entry")


service = Service.remote()
print(ray.get(service.quadruple.remote(5)), ray.get(service.all.remote([1, 2, 3])), ray.get(service.careful.remote()))
taken = [service.take.remote() for _ in range(4)]
ray.get([service.put.remote(i) for i in range(4)])
print(sorted(ray.get(taken)))
log = ray.get([service.in_turn.remote(name) for name in "abc"])[-1]
log = ray.get(service.in_turn.remote("d"))
print(all(log[i] == log[i + 1] for i in range(0, len(log), 2)), sorted(log))
print(ray.get(service.too_long.remote()), ray.get(service.plain.remote()))
print(ray.get(service.ask.remote(Service.remote(), 3)))
try:
    ray.get(service.refuse.remote())
except PermissionError as error:
    print(type(error).__name__, "no entry" in str(error))


# The driver's own loop.
async def main():
    print(await double.remote(21), await asyncio.gather(*[double.remote(i) for i in range(4)]))
    try:
        await fail.remote()
    except LookupError as error:
        print(type(error).__name__)
    print(await asyncio.wait_for(service.quadruple.remote(1), timeout=30))
    slow = SignalActor.remote()
    reference = slow.wait.remote()
    try:
        await asyncio.wait_for(reference, timeout=0.1)
    except asyncio.TimeoutError:
        print("timed out")
    await slow.send.remote()
    print(await reference)
    tasks = [asyncio.create_task(wrapped(i)) for i in range(3)]
    done, pending = await asyncio.wait(tasks)
    print(sorted(task.result() for task in done), len(pending))
    print(await asyncio.wrap_future(double.remote(4).future()))


async def wrapped(i):
    return await double.remote(i)


asyncio.run(main())
print(double.remote(8).future().result(timeout=30), type(fail.remote().future().exception(timeout=30)).__name__)
