"""Dask graphs on the cluster."""

import dask
import dask.array
import numpy as np
import pytest
import ray_rs.util.dask as dask_on_ray
from under_test import ray, ray_rs_only

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("dask is not installed beside Ray")]


@dask.delayed
def inc(x):
    return x + 1


@dask.delayed
def add(x, y):
    return x + y


@dask.delayed
def fail():
    raise KeyError("this")


@dask.delayed
def in_cluster():
    return ray.get_runtime_context().get_task_name()


@pytest.fixture
def enabled():
    with dask_on_ray.enable_dask_on_ray():
        yield


def test_as_scheduler():
    assert add(inc(1), inc(2)).compute(scheduler=dask_on_ray.ray_dask_get) == 5
    assert add(inc(1), inc(2)).compute(scheduler=dask_on_ray.ray_dask_get_sync) == 5
    assert in_cluster().compute(scheduler=dask_on_ray.ray_dask_get).startswith("dask:in_cluster")


def test_enabled_and_disabled():
    with dask_on_ray.enable_dask_on_ray():
        assert in_cluster().compute().startswith("dask:")
        with dask_on_ray.disable_dask_on_ray():
            assert inc(1).compute() == 2
        assert dask.compute({"a": inc(1), "b": [inc(2), 5]}) == ({"a": 2, "b": [3, 5]},)


def test_arrays(enabled):
    x = dask.array.random.random((60, 60), chunks=20)
    assert np.allclose((x + x.T).sum().compute(), 2 * x.sum().compute())
    assert np.allclose((x @ x.T).compute(), x.compute() @ x.compute().T)


def test_graphs_as_dictionaries():
    graph = {"x": 1, "y": (lambda a, b: a + b, "x", 2), "z": ["x", "y"], "w": (sum, ["x", "y", "y"])}
    assert dask_on_ray.ray_dask_get(graph, ["y", ["x", "z"], "w"]) == [3, [1, [1, 3]], 7]
    assert dask_on_ray.ray_dask_get(graph, "x") == 1


def test_errors(enabled):
    with pytest.raises(KeyError):
        inc(fail()).compute()


def test_persisted_data_stays_in_the_cluster(enabled):
    x = dask.array.ones((40, 40), chunks=20).persist()
    assert all(isinstance(block, ray.ObjectRef) for block in dict(x.__dask_graph__()).values())
    assert x.sum().compute() == 1600
    assert (x + 1).mean().compute() == 2
    (y,) = dask.persist(inc(5))
    assert inc(y).compute() == 7


def test_annotations_carry_options(enabled):
    @dask.delayed
    def resources():
        return ray.get_runtime_context().get_assigned_resources()

    with dask.annotate(ray_remote_args={"num_cpus": 2}):
        annotated = resources()
    assert annotated.compute(optimize_graph=False) == {"CPU": 2.0}
    assert resources().compute(ray_remote_args={"num_cpus": 0}) == {}


def test_callbacks(enabled, tmp_path):
    seen = []

    class Recorder(dask_on_ray.RayDaskCallback):
        def _ray_postsubmit(self, task, key, deps, object_ref):
            seen.append((key, type(object_ref)))

        def _ray_postsubmit_all(self, object_refs, dsk):
            seen.append(len(object_refs))

        def _ray_finish(self, result):
            seen.append(result)

    with Recorder():
        assert inc(1).compute() == 2
    inc(1).compute()
    (key, kind), count, result = seen
    assert key.startswith("inc")
    assert (kind, count, result) == (ray.ObjectRef, 1, [2])

    def before(key, object_refs):
        return "before"

    def after(key, result, pre_state):
        (tmp_path / "after").write_text(f"{pre_state} {result}")

    with dask_on_ray.RayDaskCallback(ray_pretask=before, ray_posttask=after):
        inc(1).compute()
    assert (tmp_path / "after").read_text() == "before 2"
    with dask_on_ray.RayDaskCallback(ray_presubmit=lambda task, key, deps: 100):
        assert inc(1).compute() == 100
    with pytest.raises(TypeError, match="no hook"):
        dask_on_ray.RayDaskCallback(ray_pretusk=before)


def test_progress_bar(enabled, capsys):
    with dask_on_ray.ProgressBarCallback():
        assert dask.array.ones((40, 40), chunks=10).sum().compute() == 1600
    assert "100 %" in capsys.readouterr().err


def test_an_executor_does_too():
    from ray_rs.util.executor import RayExecutor

    with RayExecutor() as executor:
        assert add(inc(1), inc(2)).compute(scheduler=executor) == 5
