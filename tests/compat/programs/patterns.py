import ray

# Patterns that programs are made of: supervisors, semaphores, peers that call one another, checkpoints, caches, events.
import asyncio
import json
import os
import tempfile
import time

import numpy as np

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


# A supervisor replaces those of its workers that die.
@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, name):
        self.name, self.calls = name, 0

    def work(self):
        self.calls += 1
        if self.name == "weak" and self.calls == 2:
            os._exit(1)
        return self.name, self.calls


@ray.remote(num_cpus=0)
class Supervisor:
    def __init__(self, names):
        self.workers = [Worker.remote(name) for name in names]

    def round(self):
        results = []
        for i, worker in enumerate(self.workers):
            try:
                results.append(ray.get(worker.work.remote()))
            except ray.exceptions.RayActorError:
                results.append("replaced")
                self.workers[i] = Worker.remote("strong")
        return results


supervisor = Supervisor.remote(["steady", "weak"])
for _ in range(3):
    print(ray.get(supervisor.round.remote()))


# A semaphore for all processes.
@ray.remote(num_cpus=0)
class Semaphore:
    def __init__(self, n):
        self.semaphore, self.inside, self.most = asyncio.Semaphore(n), 0, 0

    async def acquire(self):
        await self.semaphore.acquire()
        self.inside += 1
        self.most = max(self.most, self.inside)

    async def release(self):
        self.inside -= 1
        self.semaphore.release()

    async def result(self):
        return self.inside, self.most <= 2


@ray.remote(num_cpus=0.1)
def limited(semaphore):
    ray.get(semaphore.acquire.remote())
    time.sleep(0.01)
    ray.get(semaphore.release.remote())


semaphore = Semaphore.remote(2)
ray.get([limited.remote(semaphore) for _ in range(12)])
print(ray.get(semaphore.result.remote()))


# Peers that call one another and don't wait.
@ray.remote(num_cpus=0)
class Peer:
    def __init__(self):
        self.other, self.log = None, []

    def meet(self, other):
        self.other = other

    def hit(self, n):
        self.log.append(n)
        if n > 0:
            self.other.hit.remote(n - 1)

    def read(self):
        return self.log


ann, bob = Peer.remote(), Peer.remote()
ray.get([ann.meet.remote(bob), bob.meet.remote(ann)])
ann.hit.remote(9)
while sum(len(log) for log in ray.get([ann.read.remote(), bob.read.remote()])) < 10:
    time.sleep(0.02)
print(ray.get([ann.read.remote(), bob.read.remote()]))


# An actor that keeps what it knows on disk, and goes on after its death.
@ray.remote(max_restarts=-1, max_task_retries=-1)
class Ledger:
    def __init__(self, path):
        self.path, self.entries = path, {}
        if os.path.exists(path):
            with open(path) as file:
                self.entries = json.load(file)

    def write(self, name, value, crash=False):
        known = name in self.entries
        self.entries[name] = value
        with open(self.path, "w") as file:
            json.dump(self.entries, file)
        if crash and not known:
            os._exit(1)
        return sorted(self.entries.items())


ledger = Ledger.remote(os.path.join(tempfile.mkdtemp(), "ledger"))
ray.get([ledger.write.remote("a", 1), ledger.write.remote("b", 2)])
print(ray.get(ledger.write.remote("c", 3, crash=True)), ray.get(ledger.write.remote("d", 4)))


# A table that is shared once and looked up by many.
class Noise:
    def __init__(self, n):
        self.values = np.random.RandomState(1).randn(n)

    def at(self, i, n):
        return self.values[i : i + n]


@ray.remote
class Explorer:
    def __init__(self, noise):
        self.noise = noise

    def score(self, theta, i):
        return round(float(self.noise.at(i, len(theta)) @ theta), 6), self.noise.values.flags.writeable


noise = ray.put(Noise(200_000))
explorers = [Explorer.options(num_cpus=0).remote(noise) for _ in range(3)]
theta = ray.put(np.ones(5))
print(ray.get([explorer.score.remote(theta, 10 * i) for i, explorer in enumerate(explorers)]))


# Work of different lengths, handed to whoever is free.
@ray.remote(num_cpus=0)
class Clerk:
    def serve(self, seconds):
        time.sleep(seconds)
        return seconds


clerks = [Clerk.remote() for _ in range(3)]
jobs, busy, served = [0.03, 0.0, 0.02, 0.0, 0.01, 0.0, 0.0], {}, []
while jobs or busy:
    while jobs and len(busy) < len(clerks):
        clerk = next(clerk for clerk in clerks if clerk not in busy.values())
        busy[clerk.serve.remote(jobs.pop())] = clerk
    (done,), _ = ray.wait(list(busy))
    del busy[done]
    served.append(ray.get(done))
print(sorted(served))


# A remote function and an actor class defined inside a task, and handed to one.
@ray.remote
def run(function, cls):
    @ray.remote
    def inner(x):
        return x + 1

    actor = cls.remote("handed over")
    return ray.get(inner.remote(1)), ray.get(function.remote(2)), ray.get(actor.work.remote())


@ray.remote
def double(x):
    return 2 * x


print(ray.get(run.remote(double, Worker)))

# A class that extends itself: a tree of actors.


@ray.remote(num_cpus=0)
class Tree:
    def __init__(self, depth):
        self.children = [Tree.remote(depth - 1) for _ in range(2)] if depth else []

    def size(self):
        return 1 + sum(ray.get([child.size.remote() for child in self.children]))


print(ray.get(Tree.remote(3).size.remote()))

# At most so many calls wait at an actor.
clerk = Clerk.options(max_pending_calls=2).remote()
waiting = []
try:
    for _ in range(5):
        waiting.append(clerk.serve.remote(0.5))
except ray.exceptions.PendingCallsLimitExceeded as error:
    print(type(error).__name__, len(waiting))
print(ray.get(waiting))
