import ray

# Work that fails at first: retries of tasks that raise and of tasks whose worker dies, actors that start again.
import os
import tempfile
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
folder = tempfile.mkdtemp()


def attempt(name):
    """How often this was called with the name, in all processes together."""
    path = os.path.join(folder, name)
    with open(path, "a") as file:
        file.write(".")
    return os.path.getsize(path)


def attempts(name):
    path = os.path.join(folder, name)
    return os.path.getsize(path) if os.path.exists(path) else 0


class Transient(Exception):
    pass


class NetworkDown(Transient):
    pass


@ray.remote(max_retries=4, retry_exceptions=[Transient])
def flaky(name, error, until):
    if attempt(name) < until:
        raise error
    return "done"


def outcome(ref):
    try:
        return ray.get(ref)
    except Exception as error:
        return type(error).__name__


print(outcome(flaky.remote("listed", Transient("x"), 3)), attempts("listed"))
print(outcome(flaky.remote("subclass", NetworkDown("x"), 3)), attempts("subclass"))
print(outcome(flaky.remote("unlisted", KeyError("x"), 3)), attempts("unlisted"))
print(outcome(flaky.remote("too often", Transient("x"), 100)), attempts("too often"))
print(outcome(flaky.options(retry_exceptions=True).remote("all", KeyError("x"), 2)), attempts("all"))
print(outcome(flaky.options(retry_exceptions=False).remote("none", Transient("x"), 2)), attempts("none"))
print(outcome(flaky.options(max_retries=0).remote("zero", Transient("x"), 2)), attempts("zero"))
print(outcome(flaky.options(max_retries=-1).remote("for ever", Transient("x"), 9)), attempts("for ever"))


@ray.remote(max_retries=2)
def crashing(name, until):
    if attempt(name) < until:
        os._exit(1)
    return "survived"


print(outcome(crashing.remote("crash", 3)), attempts("crash"))
print(outcome(crashing.remote("crash too often", 10)), attempts("crash too often"))
print(outcome(crashing.options(max_retries=0).remote("crash once", 10)), attempts("crash once"))


# What depends on a task that is run again waits for it.
@ray.remote
def after(x):
    return x.upper()


print(outcome(after.remote(crashing.remote("first crash", 2))))
try:
    ray.get(after.remote(crashing.remote("for good", 10)))
except ray.exceptions.WorkerCrashedError:
    print("WorkerCrashedError")


# Actors that start again lose their state; calls are run again if they may.
@ray.remote(max_restarts=2, max_task_retries=2)
class Worker:
    def __init__(self):
        self.started = attempt("constructor")
        self.calls = 0

    def call(self):
        self.calls += 1
        return self.started, self.calls

    def crash(self, name, until):
        if attempt(name) < until:
            os._exit(1)
        return self.started, self.calls


worker = Worker.remote()
print(ray.get([worker.call.remote() for _ in range(2)]))
print(ray.get(worker.crash.remote("actor crash", 2)), ray.get(worker.call.remote()))
print(outcome(worker.crash.remote("actor crash for good", 100)))
print(outcome(worker.call.remote()))


@ray.remote(max_restarts=1)
class Once:
    def __init__(self):
        self.started = attempt("once")

    def number(self):
        return self.started

    def crash(self):
        os._exit(1)


once = Once.remote()
print(ray.get(once.number.remote()), outcome(once.crash.remote()) in ("ActorUnavailableError", "ActorDiedError"))


def number(actor):
    """The actor is unavailable for a moment."""
    deadline = time.time() + 30
    while time.time() < deadline:
        try:
            return ray.get(actor.number.remote())
        except ray.exceptions.ActorUnavailableError:
            time.sleep(0.05)


print(number(once))
print(outcome(once.crash.remote()), outcome(once.number.remote()))

# Killed, and told to start again.
again = Once.options(max_restarts=-1).remote()
before = ray.get(again.number.remote())
ray.kill(again, no_restart=False)
while number(again) == before:
    time.sleep(0.05)
print(number(again) == before + 1)
ray.kill(again)
while outcome(again.number.remote()) != "ActorDiedError":
    time.sleep(0.05)


# A method that may be run again because it raised.
@ray.remote(max_task_retries=3)
class Retrying:
    @ray.method(retry_exceptions=[Transient])
    def flaky(self, name, until):
        if attempt(name) < until:
            raise Transient(name)
        return "done"

    def strict(self, name, until):
        if attempt(name) < until:
            raise Transient(name)
        return "done"


retrying = Retrying.remote()
print(outcome(retrying.flaky.remote("method", 3)), attempts("method"))
print(outcome(retrying.strict.remote("strict", 3)), attempts("strict"))
print(outcome(retrying.flaky.remote("method too often", 30)), attempts("method too often"))
