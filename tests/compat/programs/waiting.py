import ray

# ray.wait in all its forms: what comes first, how many, for how long, and pipelines and limits made of it.
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def after(seconds, value):
    time.sleep(seconds)
    return value


@ray.remote
class Gate:
    def __init__(self):
        import asyncio

        self.opened = asyncio.Event()

    async def open(self):
        self.opened.set()

    async def pass_through(self, value):
        await self.opened.wait()
        return value


gate = Gate.remote()
now = [ray.put(i) for i in range(4)]
later = gate.pass_through.remote("later")
everything = [later, *now]
for n in (1, 3):
    # Which of those that are ready is the engine's affair; both lists are in the order of the question.
    ready, rest = ray.wait(everything, num_returns=n)
    print(len(ready), set(ready) <= set(now))
    print(ready == [ref for ref in everything if ref in ready], rest == [ref for ref in everything if ref not in ready])
ready, rest = ray.wait([later, *now], num_returns=5, timeout=0.1)
print(ready == now, rest == [later])
print(ray.wait([later], timeout=0) == ([], [later]), ray.wait([], timeout=0) == ([], []))
ray.get(gate.open.remote())
print(ray.get(ray.wait([later])[0]), ray.wait([later], num_returns=1, fetch_local=False)[1])

# A result that is an error is ready like any other.


@ray.remote
def fail():
    raise ValueError("no")


failed = fail.remote()
ready, _ = ray.wait([failed])
print(ready == [failed])

# Stages that hand on whatever is finished.


@ray.remote
def load(i):
    return list(range(i))


@ray.remote
def clean(rows):
    return [row for row in rows if row % 2]


@ray.remote
def count(rows):
    return len(rows)


loading, counting = [load.remote(i) for i in range(12)], []
while loading:
    ready, loading = ray.wait(loading, num_returns=min(3, len(loading)))
    counting += [count.remote(clean.remote(ref)) for ref in ready]
print(sum(ray.get(counting)))

# No more than four at a time: an actor sees how many there are.


@ray.remote(num_cpus=0)
class Watch:
    def __init__(self):
        self.inside, self.most, self.total = 0, 0, 0

    def enter(self):
        self.inside += 1
        self.total += 1
        self.most = max(self.most, self.inside)

    def leave(self):
        self.inside -= 1

    def report(self):
        return self.total, self.inside, self.most <= 4


@ray.remote(num_cpus=0)
def guarded(watch):
    ray.get(watch.enter.remote())
    ray.get(watch.leave.remote())


watch, flying = Watch.remote(), []
for _ in range(25):
    if len(flying) == 4:
        _, flying = ray.wait(flying)
    flying.append(guarded.remote(watch))
ray.get(flying)
print(ray.get(watch.report.remote()))

# A deadline, and what did not make it.
quick, slow = after.remote(0, "quick"), after.remote(30, "slow")
ray.wait([quick])
ready, rest = ray.wait([slow, quick], num_returns=2, timeout=0.5)
print(ray.get(ready), rest == [slow])
try:
    ray.get(slow, timeout=0.1)
except ray.exceptions.GetTimeoutError as error:
    print(type(error).__name__, isinstance(error, TimeoutError))
try:
    ray.get([ray.put(1), slow], timeout=0)
except TimeoutError as error:
    print(type(error).__name__)
