import ray

# ray.cancel: tasks that wait, that run, that have finished, and calls of actors.
import asyncio
import os
import tempfile
import time

ray.init(num_cpus=1, log_to_driver=False, include_dashboard=False)
folder = tempfile.mkdtemp()


def note(name):
    open(os.path.join(folder, name), "w").close()


def until(name):
    while not os.path.exists(os.path.join(folder, name)):
        time.sleep(0.01)


def outcome(ref):
    try:
        return ray.get(ref, timeout=30)
    except ray.exceptions.TaskCancelledError:
        return "cancelled"
    except Exception as error:
        return type(error).__name__


@ray.remote
def loop(name):
    note(name)
    while True:
        time.sleep(0.01)


@ray.remote
def quick(x=None):
    return "quick"


# One runs, the others wait for its CPU.
running = loop.remote("running")
until("running")
queued, kept = quick.remote(), quick.remote()
ray.cancel(queued)
print(outcome(queued))
ray.cancel(running)
print(outcome(running), outcome(kept))

# It may clean up, and it may refuse.


@ray.remote
def careful():
    try:
        note("careful")
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        note("cleaned")
        raise


ref = careful.remote()
until("careful")
ray.cancel(ref)
print(outcome(ref), os.path.exists(os.path.join(folder, "cleaned")))

# By force, with retries left: it is not run again.


@ray.remote(max_retries=3)
def stubborn():
    note(f"stubborn {len(os.listdir(folder))}")
    while True:
        try:
            time.sleep(1)
        except KeyboardInterrupt:
            pass


ref = stubborn.remote()
while not any(name.startswith("stubborn") for name in os.listdir(folder)):
    time.sleep(0.01)
ray.cancel(ref, force=True)
print(outcome(ref), sum(name.startswith("stubborn") for name in os.listdir(folder)))

# Too late, or nothing to cancel.
done = quick.remote()
print(outcome(done), ray.cancel(done), outcome(done))
value = ray.put(1)
print(ray.cancel(value), ray.get(value), ray.cancel(queued))

# What it has started goes with it, unless it may stay.


@ray.remote(num_cpus=0)
def child(name):
    note(name)
    while True:
        time.sleep(0.01)


@ray.remote(num_cpus=0)
def parent(name, kept):
    kept.append(child.remote(name))
    note(name + " started")
    return ray.get(kept)


ref = parent.remote("child", [])
until("child")
ray.cancel(ref)
print(outcome(ref))


# Calls of actors.
@ray.remote
class Plain:
    def work(self):
        note("plain")
        while not os.path.exists(os.path.join(folder, "go on")):
            time.sleep(0.01)
        return "worked"

    def next(self):
        return "next"


@ray.remote
class Async:
    async def wait(self):
        note("async")
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            note("async cancelled")
            raise

    async def ping(self):
        return "alive"


plain = Plain.remote()
working, waiting, last = plain.work.remote(), plain.next.remote(), plain.next.remote()
until("plain")
ray.cancel(waiting)
try:
    ray.cancel(working, force=True)
except ValueError as error:
    print(type(error).__name__, "force=True is not supported for actor tasks" in str(error))
note("go on")
print(outcome(working), outcome(waiting), outcome(last))
actor = Async.remote()
ref = actor.wait.remote()
until("async")
ray.cancel(ref)
print(outcome(ref), outcome(actor.ping.remote()))
until("async cancelled")
