import ray

# How long things live: actors by their handles, killed and ending by themselves; objects by their references.
import gc
import os
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, object_store_memory=200_000_000)


def gone(pid):
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@ray.remote
class Actor:
    def pid(self):
        return os.getpid()

    def leave(self):
        ray.actor.exit_actor()

    def crash(self):
        os._exit(3)

    def slow(self, seconds):
        time.sleep(seconds)
        return "slept"


def outcome(ref):
    try:
        return ray.get(ref)
    except ray.exceptions.RayActorError as error:
        return type(error).__name__


# The last handle.
actor = Actor.remote()
pid = ray.get(actor.pid.remote())
copy = actor
del actor
print(ray.get(copy.pid.remote()) == pid)
del copy
print(gone(pid))

# What was asked before the last handle went is still done.
print(ray.get(Actor.remote().slow.remote(0.1)))


# A handle that a task holds.
@ray.remote
def use(actor):
    time.sleep(0.2)
    return ray.get(actor.pid.remote())


actor = Actor.remote()
pid = ray.get(actor.pid.remote())
ref = use.remote(actor)
del actor
print(ray.get(ref) == pid, gone(pid))

# A handle inside an object.
box = ray.put([Actor.remote()])
pid = ray.get(ray.get(box)[0].pid.remote())
print(ray.get(ray.get(box)[0].pid.remote()) == pid)

# By itself, by accident, by force.
actor = Actor.remote()
pid = ray.get(actor.pid.remote())
print(outcome(actor.leave.remote()), outcome(actor.pid.remote()), gone(pid))
actor = Actor.remote()
print(outcome(actor.crash.remote()), outcome(actor.pid.remote()))
actor = Actor.remote()
pid = ray.get(actor.pid.remote())
running, queued = actor.slow.remote(60), actor.pid.remote()
ray.kill(actor)
print(outcome(running), outcome(queued), outcome(actor.pid.remote()), gone(pid))
ray.kill(actor)
actor = Actor.remote()
ended = actor.__ray_terminate__.remote()
print(outcome(actor.pid.remote()))

# Far more than the store holds, a piece at a time.
for i in range(40):
    ref = ray.put(b"%d" % i * 10_000_000)
    assert len(ray.get(ref)) in (10_000_000, 20_000_000)
print("put")


@ray.remote
def produce(i):
    return bytes([i]) * 20_000_000


for i in range(30):
    assert ray.get(produce.remote(i))[0] == i
print("produced")


# An object outlives the task that made it and the reference that the driver forgot.
@ray.remote
def make():
    return [ray.put(b"kept" * 100_000)]


@ray.remote
class Keeper:
    def keep(self, box):
        self.box = box

    def read(self):
        return len(ray.get(self.box[0]))


keeper = Keeper.remote()
ray.get(keeper.keep.remote(ray.get(make.remote())))
gc.collect()
for i in range(20):
    ray.get(ray.put(bytes(20_000_000)))
print(ray.get(keeper.read.remote()))

# Between sessions.
ref = ray.put(1)
ray.shutdown()
ray.init(num_cpus=1, log_to_driver=False, include_dashboard=False)
print(ray.get(Actor.remote().slow.remote(0)), ray.get(use.remote(Actor.options(num_cpus=0).remote())) > 0)
