"""Small helpers of `ray.util` that need no cluster."""

import importlib
import time
import warnings

import pytest
from under_test import NAME, ray, ray_rs_only

debug = importlib.import_module(f"{NAME}.util.debug")
annotations = importlib.import_module(f"{NAME}.util.annotations")


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    debug.reset_log_once()
    for name in ("_disabled", "_periodic_log", "_periodic"):
        if hasattr(debug, name):
            monkeypatch.setattr(debug, name, getattr(debug, name))
    yield
    debug.reset_log_once()


def test_once():
    assert [ray.util.log_once("a"), ray.util.log_once("a"), ray.util.log_once("b")] == [True, False, True]
    debug.reset_log_once("a")
    assert [ray.util.log_once("a"), ray.util.log_once("b")] == [True, False]


def test_disabled():
    ray.util.disable_log_once_globally()
    assert not ray.util.log_once("c")


@ray_rs_only("Ray's memory has another clock")
def test_forgets_in_time(monkeypatch):
    ray.util.enable_periodic_logging()
    assert [ray.util.log_once("d") for _ in range(3)][-1] is False
    now = time.time()
    for clock in ("time", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: now + 1000)
    assert ray.util.log_once("d")


def test_marks_leave_things_as_they_are():
    @annotations.PublicAPI
    def f(x):
        """Doubles."""
        return 2 * x

    @annotations.DeveloperAPI
    class C:
        """Does."""

    @annotations.PublicAPI(stability="beta", api_group="some")
    def g():
        return 1

    assert (f(2), g()) == (4, 1)
    assert f.__doc__.startswith("Doubles.")
    assert isinstance(C(), C)
    assert f._annotated == "f"
    assert C._annotated_type == annotations.AnnotationType.DEVELOPER_API
    assert g._annotated_api_group == "some"


def test_deprecated():
    @annotations.Deprecated(message="Use something else.", warning=True)
    def old():
        return 1

    with pytest.warns(annotations.RayDeprecationWarning, match="something else"):
        assert old() == 1

    @annotations.Deprecated
    def silent():
        return 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert silent() == 2


def test_names_of_accelerators():
    from_util = importlib.import_module(f"{NAME}.util.accelerators")
    assert from_util.NVIDIA_H100 == "H100"
    assert from_util.GOOGLE_TPU_V4 == "TPU-V4"
    assert ray.util.accelerators is from_util


@ray_rs_only("Ray binds only some of them at the top")
def test_other_languages_say_that_they_are_not_there():
    for call in (
        lambda: ray.java_function("C", "f"),
        lambda: ray.java_actor_class("C"),
        lambda: ray.cross_language.cpp_function("f"),
        lambda: ray.cross_language.cpp_actor_class("make", "C"),
    ):
        with pytest.raises(NotImplementedError, match="workers for Python only"):
            call()
