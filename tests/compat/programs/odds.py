import ray

# Smaller things that programs do: options that are contradictions, retries, cancellation, names, results in odd numbers.
import asyncio
import os
import signal
import tempfile
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
folder = tempfile.mkdtemp()


def attempts(name):
    with open(os.path.join(folder, name), "a") as file:
        file.write("x")
    return os.path.getsize(os.path.join(folder, name))


@ray.remote(max_retries=2)
def crashes(name, times):
    if attempts(name) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempts(name) - 1


print(ray.get(crashes.remote("a", 2)))
try:
    ray.get(crashes.remote("b", 9))
except ray.exceptions.WorkerCrashedError as e:
    print(type(e).__name__, os.path.getsize(os.path.join(folder, "b")))


@ray.remote(max_retries=3, retry_exceptions=[OSError])
def raises(name, kind):
    if attempts(name) < 3:
        raise kind("again")
    return "done"


print(ray.get(raises.remote("c", OSError)), ray.get(raises.remote("d", FileNotFoundError)))
try:
    ray.get(raises.remote("e", ValueError))
except ValueError:
    print("ValueError", os.path.getsize(os.path.join(folder, "e")))


@ray.remote(num_cpus=0, max_restarts=2, max_task_retries=2)
class Fragile:
    def __init__(self):
        self.n = 0

    def crash(self, name):
        if attempts(name) == 1:
            os._exit(1)
        self.n += 1
        return self.n, ray.get_runtime_context().was_current_actor_reconstructed


print(ray.get(Fragile.remote().crash.remote("f")))
once = Fragile.options(max_task_retries=0).remote()
try:
    ray.get(once.crash.remote("g"))
except ray.exceptions.RayActorError as e:
    print(type(e).__name__)
print(ray.get(once.crash.remote("g")))


# Cancellation.
@ray.remote
def endless():
    while True:
        time.sleep(0.05)


@ray.remote
def after(x):
    return x


running = endless.remote()
waits = after.remote(running)
time.sleep(0.5)
ray.cancel(running)
for ref in (running, waits):
    try:
        ray.get(ref, timeout=30)
    except ray.exceptions.TaskCancelledError as e:
        print("cancelled", isinstance(e, ray.exceptions.RayTaskError))
    except ray.exceptions.RayTaskError as e:
        print("failed", type(e).__name__)
ray.cancel(ray.put(1))
forced = endless.remote()
time.sleep(0.5)
ray.cancel(forced, force=True)
try:
    ray.get(forced, timeout=30)
except (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError) as e:
    print(type(e).__name__)


@ray.remote(num_cpus=0)
class Sleeper:
    async def sleep(self, t):
        try:
            await asyncio.sleep(t)
        except asyncio.CancelledError:
            attempts("cancelled")
            raise
        return t


sleeper = Sleeper.remote()
call = sleeper.sleep.remote(100)
time.sleep(0.5)
ray.cancel(call)
try:
    ray.get(call, timeout=30)
except ray.exceptions.TaskCancelledError:
    print("TaskCancelledError", ray.get(sleeper.sleep.remote(0)))


# Misuse.
def refused(step):
    try:
        step()
    except Exception as e:
        print(type(e).__name__, "|", str(e).split("\n")[0][:48])
    else:
        print("accepted")


@ray.remote
def plain(x=0):
    return x


@ray.remote
class Class:
    def method(self, x=0):
        return x


handle = Class.remote()
for step in [
    lambda: plain(),
    lambda: Class(),
    lambda: handle.method(),
    lambda: handle.nothing,
    lambda: plain.remote(1, 2),
    lambda: handle.method.remote(y=1),
    lambda: Class.remote(1),
    lambda: ray.get(1),
    lambda: ray.get([1]),
    lambda: ray.get((plain.remote(),)),
    lambda: ray.put(ray.put(1)),
    lambda: ray.wait([ray.put(1)] * 2),
    lambda: ray.wait([ray.put(1)], num_returns=2),
    lambda: ray.wait([ray.put(1)], num_returns=0),
    lambda: ray.wait([ray.put(1)], timeout=-1),
    lambda: ray.kill(plain),
    lambda: ray.cancel(handle),
    lambda: ray.get_actor("nobody"),
    lambda: ray.get_actor(""),
    lambda: ray.remote(1),
    lambda: ray.remote(),
    lambda: plain.options(max_calls=1),
    lambda: plain.options(nonsense=1),
    lambda: plain.options(resources={"CPU": 1}),
    lambda: plain.options(name=5),
    lambda: Class.options(num_returns=2),
    lambda: Class.options(lifetime="always"),
    lambda: Class.options(get_if_exists=True).remote(),
    lambda: Class.options(max_concurrency=-1),
    lambda: Class.options(name="").remote(),
    lambda: ray.init(num_cpus=1),
    lambda: ray.method(nothing=1),
]:
    refused(step)
print(ray.init(ignore_reinit_error=True) is not None, bool(ray.put(0)))


# Odd numbers of results.
@ray.remote
def give(x):
    return x


print(give.options(num_returns=0).remote(None), ray.get(give.options(num_returns=2).remote((1, 2))))
for bad in ((1,), 5, (1, 2, 3)):
    try:
        ray.get(give.options(num_returns=2).remote(bad))
    except (ValueError, TypeError) as e:
        print(type(e).__name__, str(e).splitlines()[-1])
print(ray.get([]), ray.wait([]), ray.get(give.remote(ValueError("as a value"))).args)
ray.shutdown()
ray.shutdown()
for step in (lambda: ray.cluster_resources(), lambda: ray.nodes()):
    refused(step)
