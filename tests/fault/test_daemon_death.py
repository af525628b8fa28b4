"""The raylet or the control store dies: what can't go on says so at once, what can goes on."""

import pytest
from under_test import ray_rs_only, run_driver

pytestmark = [
    pytest.mark.usefixtures("no_cluster"),
    ray_rs_only("Ray's driver ends itself, or waits a minute"),
]

# Everything that is waited for and everything that is asked later, one line each: what, and how it ended.
REPORT = """
    import json, os, signal, sys, threading, time
    from concurrent.futures import ThreadPoolExecutor

    ray.init(num_cpus=2)

    @ray.remote
    def sleep():
        time.sleep(1000)

    @ray.remote
    def new():
        return "new"

    @ray.remote
    class Actor:
        def f(self):
            return "f"

        def sleep(self):
            time.sleep(1000)

    actor, sleeper = Actor.options(name="old").remote(), Actor.remote()
    value = ray.put("value")
    ray.get([actor.f.remote(), sleeper.f.remote()])
    forever = sleep.remote()
    ray.wait([forever], timeout=0.1)
    with open(os.path.join(ray.init(ignore_reinit_error=True)["session_dir"], "session.json")) as file:
        daemon = json.load(file)[sys.argv[1] + "_pid"]

    def report(name, action):
        try:
            ending = action()
        except Exception as error:
            ending = type(error).__name__
        os.write(1, f"{name} {ending}\\n".encode())  # whole lines, whichever thread

    future = sleeper.sleep.remote().future()
    waiting = {
        "get": lambda: ray.get(forever, timeout=20),
        "get of two": lambda: ray.get([value, forever], timeout=20),
        "wait": lambda: len(ray.wait([forever], timeout=20)[0]),
        "call": lambda: ray.get(sleeper.sleep.remote(), timeout=20),
        "future": lambda: future.result(20),
    }
    later = {
        "value": lambda: ray.get(value),
        "old actor": lambda: ray.get(actor.f.remote(), timeout=20),
        "new task": lambda: ray.get(new.options(num_cpus=0).remote(), timeout=20),
        "new actor": lambda: ray.get(Actor.remote().f.remote(), timeout=20),
        "named actor": lambda: type(Actor.options(name="x").remote()).__name__,
        "lookup": lambda: ray.get_actor("nobody"),
        "kill": lambda: ray.kill(sleeper),
        "found": lambda: ray.get(ray.get_actor("old").f.remote(), timeout=20),
    }
    with ThreadPoolExecutor() as pool:
        in_threads = [pool.submit(report, "a thread's " + name, action) for name, action in waiting.items()]
        time.sleep(0.2)
        threading.Timer(0.2, lambda: os.kill(daemon, signal.SIGKILL)).start()
        if sys.argv[1] == "raylet":
            report("get", waiting["get"])
        else:
            time.sleep(0.5)
        for name, action in later.items():
            report(name, action)
        if sys.argv[1] == "gcs":
            ray.cancel(forever, force=True)  # ends the waits
    ray.shutdown()
    ray.init(num_cpus=1)
    report("another session", lambda: ray.get(new.remote()))
"""


def endings(kind):
    done = run_driver(REPORT, kind)
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


def test_the_raylet():
    ended = endings("raylet")
    assert ended.pop("value") == "value"
    assert ended.pop("another session") == "new"
    assert set(ended.values()) == {"LocalRayletDiedError"}, ended
    assert len(ended) == 13


def test_the_control_store():
    """It is started again, and what needs it waits for that."""
    ended = endings("gcs")
    assert ended.pop("value") == "value"
    assert ended.pop("old actor") == "f"
    assert ended.pop("found") == "f"
    assert ended.pop("new task") == "new"
    assert ended.pop("another session") == "new"
    assert ended.pop("new actor") == "f"
    assert ended.pop("named actor") == "ActorHandle"
    assert ended.pop("lookup") == "ValueError"
    assert ended.pop("kill") == "None"
    assert ended.pop("a thread's wait") == "1"
    assert ended.pop("a thread's get") == "TaskCancelledError"
    assert ended.pop("a thread's get of two") == "TaskCancelledError"
    assert set(ended.values()) == {"ActorDiedError"}, ended
    assert set(ended) == {"a thread's call", "a thread's future"}
