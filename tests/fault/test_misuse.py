"""Mistakes that are told at once, and what was asked for and can never be had."""

import pytest
from under_test import ray, ray_rs_only, run_driver

pytestmark = pytest.mark.usefixtures("no_cluster")


@ray_rs_only("Ray's text names the demand, not what is missing, and comes late")
def test_a_demand_that_can_never_be_met():
    done = run_driver(
        """
        import time
        ray.init(num_cpus=2)

        @ray.remote(num_cpus=64, resources={"unobtainium": 1})
        def never():
            pass

        ref = never.remote()
        try:
            ray.get(ref, timeout=3)
        except ray.exceptions.GetTimeoutError:
            print("TIMED OUT")

        @ray.remote
        def f():
            return 1

        assert ray.get(f.remote()) == 1
        """
    )
    assert "TIMED OUT" in done.stdout
    text = done.stdout + done.stderr
    assert "unobtainium" in text
    assert "64" in text


@ray_rs_only("Ray's text names the demand, not what is missing, and comes late")
def test_an_actor_that_can_never_be_placed():
    done = run_driver(
        """
        ray.init(num_cpus=2)

        @ray.remote(num_cpus=3)
        class Never:
            def f(self):
                return 1

        actor = Never.remote()
        try:
            ray.get(actor.f.remote(), timeout=3)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnschedulableError) as error:
            print("REFUSED")
        """
    )
    assert "REFUSED" in done.stdout
    text = done.stdout + done.stderr
    assert "3" in text and "CPU" in text, text


@ray_rs_only("Ray starts a new cluster")
def test_use_after_shutdown():
    done = run_driver(
        """
        ray.init(num_cpus=1)

        @ray.remote
        def f():
            return 1

        ref = ray.put(1)
        ray.shutdown()
        for attempt in (lambda: ray.get(ref), lambda: ray.put(1), lambda: f.remote()):
            try:
                attempt()
            except Exception as error:
                print(type(error).__name__, error)
            else:
                print("started anew")
        """
    )
    # Either a new local cluster is started, or the error says what to do; the old ref is invalid.
    first, *rest = done.stdout.splitlines()
    assert first != "started anew"
    for line in rest:
        assert line == "started anew" or "ray.init()" in line


def test_wrong_things_everywhere():
    ray.init(num_cpus=1, include_dashboard=False)

    @ray.remote
    def f(x):
        return x

    with pytest.raises(ValueError):
        ray.get(f)
    with pytest.raises(TypeError):
        ray.wait([f])
    with pytest.raises(ValueError):
        ray.kill(f)
    with pytest.raises(AttributeError):
        ray.no_such_name
    assert ray.get(f.remote(len)) is len  # a function is a value
