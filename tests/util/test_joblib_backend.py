"""joblib on the cluster."""

import joblib
import pytest
from under_test import ray, ray_rs_only

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("joblib is not installed beside Ray")]


@pytest.fixture(scope="module", autouse=True)
def _registered(cluster):
    from ray_rs.util.joblib import register_ray

    register_ray()


def square(x):
    return x * x


def fail_at_three(x):
    if x == 3:
        raise KeyError(x)
    return x


def where(_):
    return ray.get_runtime_context().get_actor_id() is not None


def test_as_without_it():
    work = [joblib.delayed(square)(x) for x in range(30)]
    with joblib.parallel_backend("ray"):
        assert joblib.Parallel()(work) == [x * x for x in range(30)]
    with joblib.parallel_config("ray", n_jobs=2):
        assert joblib.Parallel()(work) == joblib.Parallel(n_jobs=1)(work)


def test_runs_in_the_cluster():
    with joblib.parallel_backend("ray", n_jobs=2):
        assert set(joblib.Parallel()(joblib.delayed(where)(x) for x in range(8))) == {True}


def test_counts_the_cpus_of_the_cluster():
    with joblib.parallel_backend("ray"):
        assert joblib.effective_n_jobs(-1) == 2
        assert joblib.effective_n_jobs(-2) == 1
        assert joblib.effective_n_jobs(None) == 2


def test_errors_and_what_follows_them():
    with joblib.parallel_backend("ray", n_jobs=2):
        with pytest.raises(KeyError):
            joblib.Parallel()(joblib.delayed(fail_at_three)(x) for x in range(8))
        assert joblib.Parallel()(joblib.delayed(square)(x) for x in range(4)) == [0, 1, 4, 9]


def test_generator_of_results():
    with joblib.parallel_backend("ray", n_jobs=2):
        results = joblib.Parallel(return_as="generator")(joblib.delayed(square)(x) for x in range(10))
        assert list(results) == [x * x for x in range(10)]


def test_options_of_the_processes():
    with joblib.parallel_backend("ray", n_jobs=2, ray_remote_args={"num_cpus": 1}):
        with joblib.Parallel() as parallel:
            parallel(joblib.delayed(square)(x) for x in range(4))
            assert ray.available_resources().get("CPU", 0) == 0
