import ray

# Actors in their three kinds at work: plain ones keep order, threaded and asynchronous ones overlap, groups isolate.
import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

ray.init(num_cpus=3, log_to_driver=False, include_dashboard=False)


@ray.remote(num_cpus=0)
class Log:
    def __init__(self):
        self.lines = []

    def add(self, who, i):
        self.lines.append((who, i))

    def get(self):
        return self.lines


@ray.remote
def writer(log, who, n):
    ray.get([log.add.remote(who, i) for i in range(n)])


log = Log.remote()
ray.get([writer.remote(log, who, 50) for who in "abc"])
lines = ray.get(log.get.remote())
print(len(lines), [[i for w, i in lines if w == who] == list(range(50)) for who in "abc"])


@ray.remote(num_cpus=0)
class Async:
    def __init__(self):
        self.now, self.most = 0, 0

    async def work(self, t):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(t)
        self.now -= 1
        return self.most

    async def nested(self, other):
        ref = other.work.remote(0.01)
        return await ref, await asyncio.wait_for(other.work.remote(0.01), 10)

    def plain(self):
        return threading.current_thread() is threading.main_thread()

    async def gather(self, refs):
        return await asyncio.gather(*refs)

    async def fail(self):
        raise LookupError("async")


one, two = Async.remote(), Async.options(max_concurrency=2).remote()
ray.get([one.work.remote(0.3) for _ in range(20)])
print(ray.get(one.work.remote(0)) == 20)
ray.get([two.work.remote(0.05) for _ in range(6)])
print(ray.get(two.work.remote(0)))
print([n >= 1 for n in ray.get(one.nested.remote(two))])
print(ray.get(one.gather.remote([ray.put(1), ray.put(2)])))
try:
    ray.get(one.fail.remote())
except LookupError as e:
    print("LookupError", e.args)


@ray.remote(num_cpus=0, max_concurrency=3)
class Threaded:
    def __init__(self):
        self.barrier = threading.Barrier(3)

    def meet(self):
        self.barrier.wait(20)
        return threading.current_thread() is threading.main_thread()

    def name(self):
        return threading.current_thread().ident


threaded = Threaded.remote()
print(ray.get([threaded.meet.remote() for _ in range(3)]))


@ray.remote(num_cpus=0, concurrency_groups={"io": 2, "compute": 1})
class Grouped:
    def __init__(self):
        self.event = threading.Event()

    @ray.method(concurrency_group="io")
    def block(self):
        return self.event.wait(20)

    @ray.method(concurrency_group="compute")
    def free(self):
        self.event.set()
        return "freed"

    def default(self):
        return "default"


grouped = Grouped.remote()
blocked = [grouped.block.remote() for _ in range(2)]
print(ray.wait(blocked, timeout=0.3)[0], ray.get(grouped.default.remote()))
print(ray.get(grouped.free.remote()), ray.get(blocked))
print(ray.get(grouped.default.options(concurrency_group="io").remote()))


# References as futures of both kinds.
@ray.remote
def later(t, value):
    time.sleep(t)
    return value


futures = [later.remote(0.1 * i, i).future() for i in range(3)]
wait(futures, timeout=20)
print([future.result() for future in futures])


async def main():
    refs = [later.remote(0.05, i) for i in range(3)]
    print(await asyncio.gather(*refs))
    done, pending = await asyncio.wait([later.remote(0.01, "x").as_future()], timeout=20)
    print([d.result() for d in done], len(pending))
    try:
        await asyncio.wait_for(later.remote(3, 1), timeout=0.05)
    except asyncio.TimeoutError:
        print("TimeoutError")


asyncio.run(main())

# Threads of the driver share it.
with ThreadPoolExecutor(4) as threads:
    print(sorted(threads.map(lambda i: ray.get(later.remote(0.01, i)), range(8))))


# Contexts of calls are kept apart.
@ray.remote(num_cpus=0)
class Contexts:
    async def mine(self):
        before = ray.get_runtime_context().get_task_id()
        await asyncio.sleep(0.05)
        return before == ray.get_runtime_context().get_task_id(), before


contexts = Contexts.remote()
found = ray.get([contexts.mine.remote() for _ in range(10)])
print(all(same for same, _ in found), len({task for _, task in found}))


# Limits of what may be pending.
@ray.remote(num_cpus=0, max_pending_calls=2)
class Narrow:
    def wait(self, t):
        time.sleep(t)


narrow = Narrow.remote()
ray.get(narrow.wait.remote(0))
refs = []
try:
    for _ in range(10):
        refs.append(narrow.wait.remote(0.3))
except ray.exceptions.PendingCallsLimitExceeded:
    print("PendingCallsLimitExceeded", len(refs) <= 3)
ray.get(refs)
ray.shutdown()
