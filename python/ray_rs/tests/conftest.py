"""Fixtures of test files that were written for Ray: `from ray.tests.conftest import *`.

The pytest plugin `ray_rs.as_ray` knows them without that. A parameter of a fixture (`indirect=True`) is a dictionary:
what `init` takes, and for clusters of several nodes also `num_nodes` and `do_init`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import ray_rs as ray
from ray_rs._private import test_utils
from ray_rs.cluster_utils import Cluster

__all__ = [
    "call_ray_start",
    "call_ray_start_context",
    "call_ray_stop_only",
    "class_ray_instance",
    "error_pubsub",
    "get_default_fixture_ray_kwargs",
    "log_pubsub",
    "maybe_setup_external_redis",
    "ray_start_2_cpus",
    "ray_start_4_cpus",
    "ray_start_10_cpus",
    "ray_start_10_cpus_shared",
    "ray_start_cluster",
    "ray_start_cluster_2_nodes",
    "ray_start_cluster_enabled",
    "ray_start_cluster_head",
    "ray_start_cluster_head_with_env_vars",
    "ray_start_cluster_init",
    "ray_start_no_cpu",
    "ray_start_object_store_memory",
    "ray_start_regular",
    "ray_start_regular_shared",
    "ray_start_regular_shared_2_cpus",
    "shutdown_only",
    "tmp_working_dir",
    "two_node_cluster",
]

_DEFAULT_COMMAND = "ray start --head --num-cpus=1 --port 0"


def get_default_fixture_ray_kwargs() -> dict[str, Any]:
    """What the fixtures give to `init` where their parameter says nothing else."""
    return {"num_cpus": 1, "object_store_memory": 150 * 1024 * 1024, "namespace": "default_test_namespace"}


def _parameter(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(getattr(request, "param", None) or {})


@contextmanager
def _ray_start(**given: Any) -> Iterator[Any]:
    context = ray.init("local", **{**get_default_fixture_ray_kwargs(), **given})
    try:
        yield context
    finally:
        ray.shutdown()


@contextmanager
def _ray_start_cluster(
    num_nodes: int = 0, do_init: bool | None = None, skip_cluster: bool = False, **given: Any
) -> Iterator[Cluster]:
    if skip_cluster:
        pytest.skip("Cluster not supported")
    node = {**get_default_fixture_ray_kwargs(), **given}
    namespace = node.pop("namespace")
    cluster = Cluster()
    try:
        for number in range(num_nodes):
            cluster.add_node(**node)
            if number == 0 and do_init is not False:
                ray.init(address=cluster.address, namespace=namespace)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def shutdown_only() -> Iterator[None]:
    """The test starts a session of its own, which ends with it."""
    yield None
    ray.shutdown()


@pytest.fixture
def maybe_setup_external_redis() -> None:
    """There is no Redis: the control store keeps its tables itself."""


@pytest.fixture(scope="class")
def class_ray_instance() -> Iterator[Any]:
    """A session for the tests of a class."""
    yield ray.init("local")
    ray.shutdown()


# ---------------------------------------------------------------------------------------------------------- one node


@pytest.fixture
def ray_start_no_cpu(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A session without CPUs."""
    with _ray_start(**{"num_cpus": 0, **_parameter(request)}) as context:
        yield context


@pytest.fixture
def ray_start_regular(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A session of one CPU."""
    with _ray_start(**_parameter(request)) as context:
        yield context


@pytest.fixture(scope="module")
def ray_start_regular_shared(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A session of one CPU for the tests of a module."""
    with _ray_start(**_parameter(request)) as context:
        yield context


@pytest.fixture(scope="module")
def ray_start_regular_shared_2_cpus(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A session of two CPUs for the tests of a module."""
    with _ray_start(**{"num_cpus": 2, **_parameter(request)}) as context:
        yield context


@pytest.fixture
def ray_start_2_cpus(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A session of two CPUs."""
    with _ray_start(**{"num_cpus": 2, **_parameter(request)}) as context:
        yield context


@pytest.fixture
def ray_start_4_cpus(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A session of four CPUs."""
    with _ray_start(**{"num_cpus": 4, **_parameter(request)}) as context:
        yield context


@pytest.fixture
def ray_start_10_cpus(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A session of ten CPUs."""
    with _ray_start(**{"num_cpus": 10, **_parameter(request)}) as context:
        yield context


@pytest.fixture(scope="module")
def ray_start_10_cpus_shared(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A session of ten CPUs for the tests of a module."""
    with _ray_start(**{"num_cpus": 10, **_parameter(request)}) as context:
        yield context


@pytest.fixture
def ray_start_object_store_memory(request: pytest.FixtureRequest) -> Iterator[int]:
    """A session whose object store has the size that the parameter says, in bytes."""
    ray.init("local", num_cpus=1, object_store_memory=request.param)
    yield request.param
    ray.shutdown()


# ------------------------------------------------------------------------------------------------------ several nodes


@pytest.fixture
def ray_start_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster, by itself of no node; with `num_nodes` this process is connected to it, too."""
    with _ray_start_cluster(**_parameter(request)) as cluster:
        yield cluster


@pytest.fixture
def ray_start_cluster_enabled(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The same as `ray_start_cluster`."""
    with _ray_start_cluster(**{**_parameter(request), "skip_cluster": False}) as cluster:
        yield cluster


@pytest.fixture
def ray_start_cluster_init(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The same as `ray_start_cluster`; this process is connected as soon as there is a head."""
    with _ray_start_cluster(**{"do_init": True, **_parameter(request)}) as cluster:
        yield cluster


@pytest.fixture
def ray_start_cluster_head(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of a head, with this process connected to it."""
    with _ray_start_cluster(**{"do_init": True, "num_nodes": 1, **_parameter(request)}) as cluster:
        yield cluster


@pytest.fixture
def ray_start_cluster_head_with_env_vars(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """The same as `ray_start_cluster_head`, with the environment variables `env_vars` of the parameter."""
    given = _parameter(request)
    for name, value in given.pop("env_vars", {}).items():
        monkeypatch.setenv(name, value)
    with _ray_start_cluster(**{"do_init": True, "num_nodes": 1, **given}) as cluster:
        yield cluster


@pytest.fixture
def ray_start_cluster_2_nodes(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of two nodes, with this process connected to it."""
    with _ray_start_cluster(**{"do_init": True, "num_nodes": 2, **_parameter(request)}) as cluster:
        yield cluster


@pytest.fixture
def two_node_cluster() -> Iterator[tuple[Cluster, Any]]:
    """A cluster of a head and two further nodes of one CPU each, and the last of them."""
    with _ray_start_cluster(num_nodes=1) as cluster:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        yield cluster, nodes[-1]


# --------------------------------------------------------------------------------------------------- the command line


@contextmanager
def call_ray_start_context(request: Any) -> Iterator[str]:
    """Runs `ray start` as the parameter says: the command, or a dictionary of "cmd" and "env".

    Args:
        request: Of pytest, or anything whose `param` is the parameter.

    Yields:
        The address of the head.
    """
    given = getattr(request, "param", _DEFAULT_COMMAND)
    env = None
    if isinstance(given, dict):
        env = test_utils.environment(given.get("env"))
        given = given.get("cmd", _DEFAULT_COMMAND)
    before = _addresses()
    subprocess.run(test_utils.own_command(given.split()), env=env, check=True)
    try:
        yield next(iter(_addresses() - before))
    finally:
        ray.shutdown()
        subprocess.run(test_utils.own_command(["ray", "stop"]), env=env, check=True)


def _addresses() -> set[str]:
    from ray_rs import _processes

    return {session["gcs_address"] for session in _processes.living_sessions()}


@pytest.fixture
def call_ray_start(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster that the command line has started; its address."""
    with call_ray_start_context(request) as address:
        yield address


@pytest.fixture
def call_ray_stop_only() -> Iterator[None]:
    """The test runs `ray start`; what it started is stopped."""
    yield
    subprocess.run(test_utils.own_command(["ray", "stop"]), check=True)


# ---------------------------------------------------------------------------------------------------------- the rest


@pytest.fixture
def error_pubsub() -> Iterator[test_utils.Subscriber]:
    """The errors that this driver is told of, for `get_error_message`."""
    subscriber = test_utils.init_error_pubsub()
    yield subscriber
    subscriber.close()


@pytest.fixture
def log_pubsub() -> Iterator[test_utils.Subscriber]:
    """What this driver's workers print, for `get_log_message`."""
    subscriber = test_utils.init_log_pubsub()
    yield subscriber
    subscriber.close()


@pytest.fixture
def tmp_working_dir(tmp_path: Any) -> str:
    """A directory with a file `hello` and a package `test_module`."""
    (tmp_path / "hello").write_text("world")
    package = tmp_path / "test_module"
    package.mkdir()
    (package / "test.py").write_text("def one():\n    return 1\n")
    (package / "__init__.py").write_text("from test_module.test import one\n")
    return str(tmp_path)
