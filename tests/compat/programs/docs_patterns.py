import ray

# The patterns and anti-patterns of Ray's own user guide, each as small as it can be.
import math
import os
import time
from collections import defaultdict

import numpy as np

ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)


# Pattern: nested tasks for nested parallelism (quick sort).
def partition(collection):
    pivot = collection.pop()
    greater, lesser = [], []
    for element in collection:
        (greater if element > pivot else lesser).append(element)
    return lesser, pivot, greater


@ray.remote
def quick_sort(collection):
    if len(collection) <= 50:
        return sorted(collection)
    lesser, pivot, greater = partition(collection)
    lesser, greater = quick_sort.remote(lesser), quick_sort.remote(greater)
    return ray.get(lesser) + [pivot] + ray.get(greater)


numbers = list(np.random.RandomState(0).randint(1000, size=400))
print("sorted", ray.get(quick_sort.remote(list(numbers))) == sorted(numbers))


# Pattern: a tree of actors.
@ray.remote(num_cpus=0)
class Trainer:
    def __init__(self, hyperparameter, data):
        self.hyperparameter, self.data = hyperparameter, data

    def fit(self):
        return self.data * self.hyperparameter


@ray.remote(num_cpus=0)
class Supervisor:
    def __init__(self, hyperparameter, data):
        self.trainers = [Trainer.remote(hyperparameter, d) for d in data]

    def fit(self):
        return ray.get([trainer.fit.remote() for trainer in self.trainers])


supervisors = [Supervisor.remote(p, [1, 2, 3]) for p in (1, 10)]
print("tree", ray.get([s.fit.remote() for s in supervisors]))


# Pattern: an actor synchronizes with events of asyncio.
@ray.remote(num_cpus=0)
class Signal:
    def __init__(self):
        import asyncio

        self.event = asyncio.Event()

    def send(self, clear=False):
        self.event.set()
        if clear:
            self.event.clear()

    async def wait(self, should_wait=True):
        if should_wait:
            await self.event.wait()


@ray.remote
def wait_and_go(signal):
    ray.get(signal.wait.remote())
    return "go"


signal = Signal.remote()
waiting = [wait_and_go.remote(signal) for _ in range(3)]
print("before", ray.wait(waiting, timeout=0.5)[0])
ray.get(signal.send.remote())
print("after", ray.get(waiting))


# Pattern: limit pending tasks with wait.
@ray.remote
class Doubler:
    def double(self, x):
        return 2 * x


doubler = Doubler.remote()
pending, results, most = [], [], 0
for i in range(50):
    if len(pending) > 10:
        ready, pending = ray.wait(pending, num_returns=1)
        results += ray.get(ready)
    pending.append(doubler.double.remote(i))
    most = max(most, len(pending))
results += ray.get(pending)
print("limited", most, sorted(results) == [2 * i for i in range(50)])


# Pattern: limit running tasks with resources.
@ray.remote(num_cpus=2)
def heavy(i):
    began = time.time()
    time.sleep(0.2)
    return began, time.time()


spans = ray.get([heavy.remote(i) for i in range(4)])
overlap = max(sum(1 for b, e in spans if b <= t < e) for t, _ in spans)
print("at most two at once", overlap <= 2)


# Pattern: pipelining an actor's work.
@ray.remote(num_cpus=0)
class WorkQueue:
    def __init__(self):
        self.queue = list(range(10))

    def get_work_item(self):
        return self.queue.pop(0) if self.queue else None


@ray.remote(num_cpus=0)
class Pipelined:
    def __init__(self, work_queue):
        self.work_queue = work_queue

    def process(self, item):
        return item * item

    def run(self):
        done = []
        next_ref = self.work_queue.get_work_item.remote()
        while (item := ray.get(next_ref)) is not None:
            next_ref = self.work_queue.get_work_item.remote()
            done.append(self.process(item))
        return done


print("pipelined", ray.get(Pipelined.remote(WorkQueue.remote()).run.remote()))


# Pattern: generators to reduce heap use.
@ray.remote(num_returns=3)
def split(n):
    for i in range(n):
        yield np.full(10, i)


print("three", [int(ray.get(ref).sum()) for ref in split.remote(3)])


# Anti-pattern: ray.get in a loop is right, if slow; in submission order.
@ray.remote
def square(x):
    return x * x


print("loop", [ray.get(square.remote(i)) for i in range(4)])

# Anti-pattern: a closure captures a large object.
big = np.zeros(1_000_000)


@ray.remote
def uses_closure():
    return len(big)


print("closure", ray.get(uses_closure.remote()))
big_ref = ray.put(big)


@ray.remote
def uses_ref(a):
    return len(a)


print("by reference", ray.get([uses_ref.remote(big_ref) for _ in range(3)]))

# Anti-pattern: global variables to share state.
shared = 3


@ray.remote(num_cpus=0)
class Reader:
    def read(self):
        return shared


reader = Reader.remote()
print("shared", ray.get(reader.read.remote()))
shared = 4
print("not shared", ray.get(reader.read.remote()))


# Anti-pattern: a forked process in a task.
@ray.remote
def forks():
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout.strip()


print("subprocess", ray.get(forks.remote()))


# Anti-pattern: over-parallelizing; batches instead.
@ray.remote
def batch(xs):
    return [math.factorial(x) % 1000 for x in xs]


print("batches", sum(ray.get([batch.remote(list(range(i, i + 10))) for i in range(0, 50, 10)]), [])[:6])


# Anti-pattern: redefining a remote function in a loop gives the same results.
def redefine(i):
    @ray.remote
    def compute():
        return i * 2

    return ray.get(compute.remote())


print("redefined", [redefine(i) for i in range(4)])


# Anti-pattern: returning ray.put() refs from a task.
@ray.remote
def returns_put():
    return ray.put(1)


inner = ray.get(returns_put.remote())
print("put inside", isinstance(inner, ray.ObjectRef), ray.get(inner))


# Map, then reduce by key.
@ray.remote(num_returns=3)
def map_words(lines):
    parts = [defaultdict(int) for _ in range(3)]
    for line in lines:
        for word in line.split():
            parts[len(word) % 3][word] += 1
    return parts


@ray.remote
def reduce_words(*parts):
    counts = defaultdict(int)
    for part in parts:
        for word, n in part.items():
            counts[word] += n
    return dict(counts)


corpus = [["a bb ccc", "a a"], ["bb dddd a"], ["ccc ccc"]]
mapped = [map_words.remote(lines) for lines in corpus]
reduced = ray.get([reduce_words.remote(*[m[i] for m in mapped]) for i in range(3)])
print("words", sorted((w, n) for part in reduced for w, n in part.items()))
ray.shutdown()
