"""Actors: state, order, handles, lifetime, options, and what goes wrong in them."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from under_test import IS_RAY, exceptions, ray, ray_rs_only, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Hides:
    """Has attributes named as its methods."""

    def __init__(self):
        self.value = 0
        self.later = 0

    def value(self):
        self.later += 1
        return self.value

    async def later(self):
        return self.later

    @staticmethod
    def static(x):
        return x

    @classmethod
    def of_class(cls):
        return cls.__name__


def test_an_attribute_does_not_hide_a_method_of_its_name():
    actor = Hides.remote()
    assert ray.get([actor.value.remote(), actor.value.remote(), actor.later.remote()]) == [0, 0, 2]
    assert ray.get([actor.static.remote(3), actor.of_class.remote()]) == [3, "Hides"]


@ray.remote
class Counter:
    """Counts."""

    step = 1

    def __init__(self, start=0):
        self.n = start

    def add(self, k=1):
        self.n += k
        return self.n

    def append_to(self, log, x):
        log.append(x)
        return log

    @staticmethod
    def twice(x):
        return 2 * x

    @classmethod
    def name(cls):
        return "Counter"

    @property
    def prop(self):
        return 1

    def pid(self):
        return os.getpid()

    def _private(self):
        return "private"

    def __call__(self, x):
        return ("called", x)

    @ray.method(num_returns=2)
    def pair(self):
        return "a", "b"

    def fail(self):
        raise ValueError("in the actor")

    def me(self):
        return ray.get_runtime_context().current_actor


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


def test_state_and_arguments():
    counter = Counter.remote(10)
    assert ray.get(counter.add.remote()) == 11
    assert ray.get(counter.add.remote(k=4)) == 15
    assert ray.get(counter.add.remote(ray.put(5))) == 20
    assert ray.get(Counter.remote(start=ray.put(3)).add.remote()) == 4


def test_calls_of_one_caller_stay_in_order():
    @ray.remote
    class Log:
        def __init__(self):
            self.lines = []

        def write(self, i):
            self.lines.append(i)

        def read(self):
            return self.lines

    log = Log.remote()
    for i in range(2000):
        log.write.remote(i)
    assert ray.get(log.read.remote()) == list(range(2000))


def test_a_call_waits_for_its_arguments_and_holds_up_the_next():
    @ray.remote
    def late(x):
        time.sleep(0.5)
        return x

    @ray.remote
    class Log:
        def __init__(self):
            self.lines = []

        def write(self, x):
            self.lines.append(x)

        def read(self):
            return self.lines

    log = Log.remote()
    log.write.remote(late.remote("first"))
    log.write.remote("second")
    assert ray.get(log.read.remote()) == ["first", "second"]


def test_several_callers_keep_their_own_order():
    @ray.remote
    class Log:
        def __init__(self):
            self.lines = []

        def write(self, who, i):
            self.lines.append((who, i))

        def read(self):
            return self.lines

    @ray.remote
    def write(log, who):
        ray.get([log.write.remote(who, i) for i in range(200)])

    log = Log.remote()
    ray.get([write.remote(log, who) for who in range(4)])
    lines = ray.get(log.read.remote())
    for who in range(4):
        assert [i for w, i in lines if w == who] == list(range(200))


def test_methods_of_every_kind():
    counter = Counter.remote()
    assert ray.get(counter.twice.remote(4)) == 8
    assert ray.get(counter.name.remote()) == "Counter"
    assert ray.get(counter._private.remote()) == "private"
    assert ray.get(counter.__call__.remote(1)) == ("called", 1)
    assert ray.get(counter.pair.remote()) == ["a", "b"]
    assert ray.get(counter.add.options(name="renamed").remote()) == 1
    assert ray.get(counter.twice.options(num_returns=1).remote(1)) == 2
    assert ray.get(counter.__ray_ready__.remote()) is True
    assert ray.get(counter.__ray_call__.remote(lambda self, k: self.n + k, 5)) == 6


def test_misuse():
    counter = Counter.remote()
    with pytest.raises(TypeError, match="Actors cannot be instantiated directly"):
        Counter()
    with pytest.raises(TypeError, match="Actor methods cannot be called directly"):
        counter.add()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        counter.nothing.remote()
    with pytest.raises(TypeError, match="too many positional arguments"):
        counter.add.remote(1, 2)
    with pytest.raises(TypeError, match="missing a required"):
        counter.twice.remote()
    with pytest.raises(TypeError, match="too many positional arguments"):
        Counter.remote(1, 2)
    with pytest.raises(TypeError):

        class Sub(Counter):
            pass

    with pytest.raises(TypeError, match="unexpected keyword"):
        counter.add.options(nonsense=1).remote()
    with pytest.raises(ValueError, match="only supported for actors"):
        ray.kill(ray.put(1))
    with pytest.raises(TypeError, match=r"exit_actor|actor"):
        ray.actor.exit_actor()


@ray_rs_only("in Ray the result has only `remote` and `bind`")
def test_options_of_options():
    both = Counter.options(name="both", namespace="a").options(namespace="b")
    counter = both.remote()
    assert ray.get(counter.add.options(name="x").options(num_returns=1).remote()) == 1
    assert ray.get_actor("both", namespace="b") == counter
    with pytest.raises(ValueError, match="Invalid option keyword"):
        both.options(nonsense=1)
    ray.kill(counter)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"nonsense": 1}, ValueError, "Invalid option keyword nonsense for actors"),
        ({"num_returns": 2}, ValueError, "Invalid option keyword num_returns for actors"),
        ({"max_restarts": -2}, ValueError, "max_restarts|-1"),
        ({"max_restarts": "x"}, TypeError, "The type of keyword 'max_restarts' must be"),
        ({"lifetime": "eternal"}, ValueError, "lifetime"),
        ({"get_if_exists": True}, ValueError, "name"),
        ({"name": ""}, ValueError, "name|empty"),
        ({"name": 5}, TypeError, "name"),
        ({"max_concurrency": -1}, ValueError, "max_concurrency|negative|>= 0"),
        ({"num_cpus": -1}, ValueError, "negative"),
    ],
    ids=lambda value: "-".join(map(str, value.items())) if isinstance(value, dict) else "",
)
def test_bad_options(options, error, text):
    class Plain:
        pass

    with pytest.raises(error, match=text):
        ray.remote(**options)(Plain).remote()
    if options not in ({"name": ""}, {"name": 5}):
        with pytest.raises(error, match=text):
            ray.remote(Plain).options(**options).remote()


def test_the_class_stays_reachable():
    assert Counter.step == 1
    assert Counter.twice(3) == 6


def test_handles():
    counter = Counter.remote()
    actor_id = counter._actor_id.hex()
    assert repr(counter) == f"Actor(Counter, {actor_id})"
    assert {"add", "__init__", "__ray_ready__"} <= set(dir(counter))
    again = ray.get(counter.me.remote())
    assert again == counter
    assert hash(again) == hash(counter)
    assert {counter: 1}[again] == 1
    assert isinstance(counter, ray.actor.ActorHandle)

    @ray.remote
    def use(handle, inside):
        return ray.get(handle.add.remote()), ray.get(inside["h"].add.remote())

    assert ray.get(use.remote(counter, {"h": counter})) == (1, 2)

    @ray.remote
    class Holder:
        def hold(self, handles):
            self.handle = handles[0]

        def use(self):
            return ray.get(self.handle.add.remote())

    holder = Holder.remote()
    ray.get(holder.hold.remote([counter]))
    assert ray.get(holder.use.remote()) == 3


def test_a_method_travels():
    counter = Counter.remote()

    @ray.remote
    def call(method):
        return ray.get(method.remote(5))

    assert ray.get(call.remote(counter.add)) == 5


def test_an_error_leaves_the_actor_alive():
    counter = Counter.remote()
    with pytest.raises(ValueError, match="in the actor") as raised:
        ray.get(counter.fail.remote())
    assert isinstance(raised.value, exceptions.RayTaskError)
    assert "Counter.fail" in str(raised.value)
    assert ray.get(counter.add.remote()) == 1


def test_constructor_error():
    @ray.remote
    class Broken:
        def __init__(self):
            raise KeyError("cannot start")

        def f(self):
            pass

    broken = Broken.remote()
    with pytest.raises(exceptions.ActorDiedError, match="error raised in its creation task") as raised:
        ray.get(broken.f.remote())
    assert "cannot start" in str(raised.value)
    assert raised.value.actor_init_failed
    with pytest.raises(exceptions.RayActorError):
        ray.get(broken.f.remote())


def test_kill():
    counter = Counter.remote()
    pid = ray.get(counter.pid.remote())
    ray.kill(counter)
    with pytest.raises(exceptions.ActorDiedError, match=r"ray\.kill"):
        ray.get(counter.add.remote())
    wait_until(lambda: gone(pid), "the killed actor's process to end")
    ray.kill(counter)  # again: nothing happens


def test_the_error_tells_which_actor_died():
    counter = Counter.options(name="doomed", namespace="here").remote()
    pid = ray.get(counter.pid.remote())
    ray.kill(counter)
    with pytest.raises(exceptions.ActorDiedError) as raised:
        ray.get(counter.add.remote())
    text = str(raised.value)
    for fact in (
        "class_name: Counter",
        f"actor_id: {counter._actor_id.hex()}",
        f"pid: {pid}",
        "name: doomed",
    ):
        assert fact in text
    assert "namespace: here" in text
    assert text.count("killed by `ray.kill`") == 1
    assert raised.value.actor_id == counter._actor_id.hex()
    assert not raised.value.actor_init_failed


def test_the_last_handle_ends_the_actor_after_its_calls(tmp_path):
    counter = Counter.remote()
    pid = ray.get(counter.pid.remote())

    @ray.remote
    class Slow:
        def work(self, i):
            time.sleep(0.1)
            (tmp_path / str(i)).touch()
            return i

    slow = Slow.remote()
    refs = [slow.work.remote(i) for i in range(4)]
    del slow, counter
    assert ray.get(refs) == [0, 1, 2, 3]
    wait_until(lambda: gone(pid), "the actor's process to end")


def test_a_temporary_handle():
    assert ray.get(Counter.remote(5).add.remote()) == 6


def test_exit_actor(tmp_path):
    @ray.remote
    class Leaver:
        def __init__(self, note):
            import atexit

            atexit.register(note.touch)

        def leave(self):
            ray.actor.exit_actor()

        def f(self):
            return 1

    leaver = Leaver.remote(tmp_path / "said goodbye")
    assert ray.get(leaver.f.remote()) == 1
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(leaver.leave.remote())
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(leaver.f.remote())
    wait_until((tmp_path / "said goodbye").exists, "the atexit handler")


@pytest.mark.parametrize("end", ["the last handle goes", "__ray_terminate__"])
def test_last_words(end, tmp_path):
    """The hook, the exit handlers and the destructor; and never the destructor in the driver, which has no instance."""

    @ray.remote
    class Talker:
        def __init__(self, path):
            import atexit

            self.path = path
            atexit.register(self.note, "handler")

        def note(self, word):
            with open(self.path, "a") as file:
                print(word, os.getpid(), file=file)

        def __ray_shutdown__(self):
            self.note("hook")

        def __del__(self):
            self.note("destructor")

        def pid(self):
            return os.getpid()

    path = tmp_path / "words"
    talker = Talker.remote(path)
    pid = ray.get(talker.pid.remote())
    if end == "__ray_terminate__":
        talker.__ray_terminate__.remote()
    else:
        del talker
    words = ["hook", "handler", "destructor"]
    wait_until(lambda: path.exists() and sorted(path.read_text().split()[::2]) == sorted(words), "the last words")
    del Talker
    assert {int(number) for number in path.read_text().split()[1::2]} == {pid}


def test_terminate():
    counter = Counter.remote()
    last = counter.add.remote()
    end = counter.__ray_terminate__.remote()
    assert ray.get(last) == 1
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(end)


def test_restarts_and_retries(tmp_path):
    @ray.remote(max_restarts=1, max_task_retries=1)
    class Phoenix:
        def __init__(self):
            with open(tmp_path / "lives", "a") as file:
                file.write("x")

        def die_once(self):
            with open(tmp_path / "calls", "a") as file:
                file.write("x")
            if len((tmp_path / "lives").read_text()) == 1:
                os._exit(1)
            return "survived"

        def reborn(self):
            return ray.get_runtime_context().was_current_actor_reconstructed

    phoenix = Phoenix.remote()
    assert ray.get(phoenix.die_once.remote(), timeout=50) == "survived"
    assert (tmp_path / "lives").read_text() == "xx"
    assert (tmp_path / "calls").read_text() == "xx"
    assert ray.get(phoenix.reborn.remote()) is True


def test_a_call_in_flight_when_the_actor_restarts():
    @ray.remote(max_restarts=-1)
    class Fragile:
        def die(self):
            os._exit(1)

        def f(self):
            return 1

    fragile = Fragile.remote()
    assert ray.get(fragile.f.remote()) == 1
    with pytest.raises(exceptions.ActorUnavailableError, match="may or may not") as raised:
        ray.get(fragile.die.remote(), timeout=50)
    assert IS_RAY or "ip=127.0.0.1" in str(raised.value)
    wait_until(lambda: answers(fragile), "the actor to come back")


def answers(handle):
    try:
        return ray.get(handle.f.remote(), timeout=30) == 1
    except exceptions.ActorUnavailableError:
        return False


def test_max_pending_calls():
    @ray.remote(max_pending_calls=3)
    class Busy:
        def wait(self):
            time.sleep(1)

    busy = Busy.remote()
    with pytest.raises(exceptions.PendingCallsLimitExceeded):
        for _ in range(10):
            busy.wait.remote()
    ray.kill(busy)


def test_actors_hold_what_they_ask_for():
    @ray.remote(num_cpus=1)
    class Heavy:
        def f(self):
            return ray.get_runtime_context().get_assigned_resources()

    @ray.remote
    class Light:
        def f(self):
            return ray.get_runtime_context().get_assigned_resources()

    heavy, light = Heavy.remote(), Light.remote()
    assert ray.get(heavy.f.remote()) == {"CPU": 1.0}
    assert ray.get(light.f.remote()) == {}
    wait_until(lambda: ray.available_resources().get("CPU") == 1, "the heavy actor's CPU to be taken")
    ray.kill(heavy)
    wait_until(lambda: ray.available_resources().get("CPU") == 2, "it to come back")


def test_many_light_actors():
    counters = [Counter.remote(i) for i in range(8)]
    assert ray.get([counter.add.remote() for counter in counters]) == list(range(1, 9))
    assert len(set(ray.get([counter.pid.remote() for counter in counters]))) == 8


def test_actor_runs_in_its_main_thread():
    @ray.remote
    class Where:
        def main(self):
            import threading

            return threading.current_thread() is threading.main_thread()

    assert ray.get(Where.remote().main.remote())


def test_awaiting_an_actor():
    async def main(counter):
        return await asyncio.gather(*[counter.add.remote() for _ in range(10)])

    assert asyncio.run(main(Counter.remote())) == list(range(1, 11))


def test_inheritance_of_plain_classes():
    class Base:
        def hello(self):
            return f"hello from {type(self).__name__}"

        @ray.method(num_returns=2)
        def two(self):
            return 1, 2

    @ray.remote
    class Child(Base):
        def hello(self):
            return super().hello()

    child = Child.remote()
    assert "Child" in ray.get(child.hello.remote())
    assert ray.get(child.two.remote()) == [1, 2]


def test_an_actor_creates_actors():
    @ray.remote
    class Parent:
        def __init__(self):
            self.child = Counter.remote(5)

        def through(self):
            return ray.get(self.child.add.remote())

        def give(self):
            return self.child

    parent = Parent.remote()
    assert ray.get(parent.through.remote()) == 6
    child = ray.get(parent.give.remote())
    assert ray.get(child.add.remote()) == 7
