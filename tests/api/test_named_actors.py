"""Named and detached actors, namespaces, `get_actor`, `get_if_exists`."""

import os

import pytest
from under_test import exceptions, ray, ray_rs_only, run_driver, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Box:
    def __init__(self, value=None):
        self.value = value

    def get(self):
        return self.value

    def set(self, value):
        self.value = value


def name_is_free(name):
    try:
        ray.get_actor(name)
    except ValueError:
        return True
    return False


def test_lookup():
    box = Box.options(name="box").remote("found")
    assert ray.get(ray.get_actor("box").get.remote()) == "found"
    assert ray.get_actor("box", namespace="tests") == box

    @ray.remote
    def in_a_task():
        handle = ray.get_actor("box")
        ray.get(handle.set.remote("changed"))
        return ray.get_runtime_context().namespace

    assert ray.get(in_a_task.remote()) == "tests"
    assert ray.get(box.get.remote()) == "changed"
    ray.kill(box)
    wait_until(lambda: name_is_free("box"), "the name to be free")
    again = Box.options(name="box").remote("new")
    assert ray.get(ray.get_actor("box").get.remote()) == "new"
    ray.kill(again)


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        (("nobody",), ValueError, "Failed to look up actor with name"),
        (("",), ValueError, "non-empty|name"),
        (("x", ""), ValueError, "namespace"),
        (("x", 5), TypeError, "namespace"),
    ],
)
def test_bad_lookups(args, error, text):
    with pytest.raises(error, match=text):
        ray.get_actor(*args)


def test_a_name_is_taken_once():
    box = Box.options(name="taken").remote(1)
    with pytest.raises(exceptions.ActorAlreadyExistsError, match="already taken") as raised:
        Box.options(name="taken").remote(2)
    assert isinstance(raised.value, ValueError)
    elsewhere = Box.options(name="taken", namespace="elsewhere").remote(3)
    assert ray.get(ray.get_actor("taken", namespace="elsewhere").get.remote()) == 3
    same = Box.options(name="taken", get_if_exists=True).remote(4)
    assert ray.get(same.get.remote()) == 1
    assert same == box
    del elsewhere


def test_a_name_is_taken_before_the_constructors_arguments_are_there(tmp_path):
    gate = tmp_path / "gate"

    @ray.remote(num_cpus=0)
    def later(value):
        wait_until(gate.exists, "the gate to open")
        return value

    @ray.remote(num_cpus=0)
    def ask(handles):
        return ray.get(handles[0].get.remote())

    box = Box.options(name="early").remote(later.remote("first"))
    with pytest.raises(exceptions.ActorAlreadyExistsError):
        Box.options(name="early").remote("second")
    assert ray.get_actor("early") == box
    unnamed = Box.remote(later.remote("unnamed"))
    answers = [ask.remote([box]), ask.remote([ray.get_actor("early")]), ask.remote([unnamed])]
    ready, _ = ray.wait(answers, num_returns=3, timeout=0.2)
    assert ready == []
    gate.touch()
    assert ray.get(answers) == ["first", "first", "unnamed"]

    @ray.remote
    def fail():
        raise ValueError("no argument")

    broken = Box.options(name="broken").remote(fail.remote())
    with pytest.raises(exceptions.RayError, match="no argument"):
        ray.get(ask.remote([broken]))
    assert name_is_free("broken")
    killed = Box.options(name="killed").remote(later.remote("never"))
    ray.kill(killed)
    assert name_is_free("killed")


def test_racers_share_one_actor():
    @ray.remote(num_cpus=0.1)
    def race(i):
        handle = Box.options(name="race", get_if_exists=True, lifetime="detached").remote(i)
        return handle._actor_id.hex(), ray.get(handle.get.remote())

    results = ray.get([race.remote(i) for i in range(20)])
    assert len(set(results)) == 1
    ray.kill(ray.get_actor("race"))


def test_a_looked_up_handle_is_weak():
    box = Box.options(name="weak").remote(1)
    weak = ray.get_actor("weak")
    assert ray.get(weak.get.remote()) == 1
    del box
    wait_until(lambda: name_is_free("weak"), "the actor to end with its last strong handle")
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(weak.get.remote())


def test_detached_actors_outlive_their_handles_and_their_driver():
    context = ray.get_runtime_context()
    run_driver(
        f"""
        ray.init(address={context.gcs_address!r}, namespace="tests")

        @ray.remote
        class Box:
            def __init__(self, value):
                self.value = value
            def get(self):
                return self.value

        kept = Box.options(name="kept", lifetime="detached").remote("kept value")
        lost = Box.options(name="lost").remote("lost value")
        assert ray.get([kept.get.remote(), lost.get.remote()]) == ["kept value", "lost value"]
        """
    )
    wait_until(lambda: name_is_free("lost"), "the driver's plain actor to end with it")
    kept = ray.get_actor("kept")
    assert ray.get(kept.get.remote()) == "kept value"
    ray.kill(kept)
    wait_until(lambda: name_is_free("kept"), "the name to be free")


@ray_rs_only("the zygote is ray_rs's own")
def test_a_job_is_forgotten_when_its_last_detached_actor_has_ended():
    context = ray.get_runtime_context()
    run_driver(
        f"""
        ray.init(address={context.gcs_address!r}, namespace="tests")

        @ray.remote(max_restarts=-1, max_task_retries=-1, runtime_env={{"env_vars": {{"RRT_LASTING": "yes"}}}})
        class Box:
            def where(self):
                import os
                return os.getpid(), os.getppid(), os.environ["RRT_LASTING"]

            def die(self):
                import os
                os._exit(1)

        lasting = Box.options(name="lasting", lifetime="detached").remote()
        ray.get(lasting.where.remote())
        """
    )
    lasting = ray.get_actor("lasting")
    first, _, _ = ray.get(lasting.where.remote())
    lasting.die.options(max_task_retries=0).remote()
    wait_until(lambda: not os.path.exists(f"/proc/{first}"), "the end of the actor's first process")
    # Its job has ended: what restarts it is there for it alone.
    second, zygote, variable = ray.get(lasting.where.remote())
    assert (second != first, variable) == (True, "yes")
    assert os.path.exists(f"/proc/{zygote}")
    ray.kill(lasting)
    wait_until(lambda: not os.path.exists(f"/proc/{zygote}"), "the end of what would restart it")
