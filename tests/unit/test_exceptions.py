"""The exception classes: picklable, and both things at once where user code raised. No cluster."""

import pickle
import sys
import threading

import pytest
from ray_rs import exceptions
from ray_rs._tracebacks import format_remote_traceback


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class ArgsDoNotMatch(Exception):
    def __init__(self, one, two):
        super().__init__("one text")


class HoldsALock(Exception):
    def __init__(self):
        super().__init__("locked")
        self.lock = threading.Lock()


class NoSubclasses(Exception):
    def __init_subclass__(cls):
        raise TypeError("final")


class OddArgs(Exception):
    @property
    def args(self):
        return ("fixed",)


def failed(error):
    """As the worker makes it."""
    try:
        raise error
    except BaseException as caught:
        text = format_remote_traceback(caught)
    return exceptions.RayTaskError("f", text, error, pid=7, ip="192.0.2.1")


@pytest.mark.parametrize("name", [name for name in exceptions.__all__ if name != "RAY_EXCEPTION_TYPES"])
def test_all_survive_pickling(name):
    cls = getattr(exceptions, name)
    three = ("f", "Traceback (most recent call last):\nE", ValueError(1))
    for args in (three,) if cls is exceptions.RayTaskError else (("a",), ()):
        try:
            error = cls(*args)
        except TypeError:
            continue
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is cls
        assert str(again) == str(error)
        assert again.__dict__.keys() == error.__dict__.keys()
        assert isinstance(error, exceptions.RayError)


@pytest.mark.parametrize(
    "error",
    [ValueError("v", 3), OSError(5, "io", "file"), KeyError("k"), StopIteration(4), Slotted(9), OddArgs()],
    ids=lambda error: type(error).__name__,
)
def test_dual_errors(error):
    dual = failed(error).as_instanceof_cause()
    for each in (dual, pickle.loads(pickle.dumps(dual))):
        assert isinstance(each, exceptions.RayTaskError)
        assert isinstance(each, type(error))
        assert type(each).__name__ == f"RayTaskError({type(error).__name__})"
        assert each.args == (each.cause,)
        assert each.cause.args == error.args
        assert "ray::f()" in str(each)
        assert "pid=7, ip=192.0.2.1" in str(each)
        assert __file__ in str(each)
    assert type(dual) is type(failed(error).as_instanceof_cause())  # one class for each


def test_fields_of_builtin_errors_are_forwarded():
    dual = failed(OSError(5, "io", "file")).as_instanceof_cause()
    assert (dual.errno, dual.strerror, dual.filename) == (5, "io", "file")
    assert failed(StopIteration(4)).as_instanceof_cause().value == 4
    assert failed(Slotted(9)).as_instanceof_cause().code == 9
    with pytest.raises(AttributeError):
        failed(ValueError()).as_instanceof_cause().nothing


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_exception_groups():
    dual = failed(ExceptionGroup("several", [ValueError(1), KeyError(2)])).as_instanceof_cause()  # noqa: F821
    assert [type(each) for each in dual.exceptions] == [ValueError, KeyError]
    assert str(dual).count("ray::f()") == 1


@pytest.mark.parametrize("error", [Exception("plain"), KeyboardInterrupt("stop"), NoSubclasses("final")], ids=repr)
def test_what_stays_a_plain_task_error(error):
    for _ in range(2):  # what was refused once is refused again
        assert type(failed(error).as_instanceof_cause()) is exceptions.RayTaskError


def test_a_cause_that_refuses_to_be_pickled():
    again = pickle.loads(pickle.dumps(failed(HoldsALock())))
    assert type(again.cause) is exceptions.RayError
    assert "HoldsALock isn't serializable" in str(again.cause)
    assert "locked" in str(again)


def test_a_cause_that_refuses_to_be_restored():
    again = pickle.loads(pickle.dumps(failed(ArgsDoNotMatch(1, 2))))
    assert type(again.as_instanceof_cause()) is exceptions.UnserializableException
    assert "one text" in str(again)


def test_chained_errors_keep_their_text():
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise RuntimeError("second") from first
    except RuntimeError as error:
        text = str(failed(error))
    assert text.index("first") < text.index("The above exception was the direct cause") < text.index("second")
    assert text.count("ray::f()") == 2


def test_reasons_of_actor_deaths():
    error = exceptions._actor_died("ab", "Counter", 7, "", "", "killed", "", None, "")
    assert "class_name: Counter" in str(error)
    assert "killed by `ray.kill`" in str(error)
    assert error.actor_id == "ab"
    assert not error.actor_init_failed
    error = exceptions._actor_died("ab", "Counter", None, "", "", "creation_failed", "", failed(ValueError("ctor")), "")
    assert "because of an error raised in its creation task" in str(error)
    assert error.actor_init_failed
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_text_of_a_crash():
    text = str(exceptions._worker_crashed("f", 12, -1, 11, "last words\n", ""))
    for part in ("'f'", "pid=12", "signal 11 (SIGSEGV", "  last words"):
        assert part in text
    assert "exited with code 3" in str(exceptions._worker_crashed("f", 12, 3, 0, "", ""))


def test_a_failed_argument():
    inner = pickle.dumps(failed(KeyError("origin")))
    once = exceptions._argument_failed("g", inner)
    twice = exceptions._argument_failed("h", pickle.dumps(once)).as_instanceof_cause()
    assert isinstance(twice, KeyError)
    assert twice.cause.args == ("origin",)
    text = str(twice)
    assert text.index("ray::h()") < text.index("ray::g()") < text.index("ray::f()")
    assert text.count("At least one of the input arguments") == 2


def test_what_the_engine_makes_errors_with_is_found_by_the_name_that_it_knows():
    for name in exceptions._ENGINES:
        assert callable(getattr(exceptions, name))
    # As pickles of the engine begin.
    inner = pickle.dumps(failed(ValueError("first")))
    by_name = pickle.loads(b"\x80\x05cray_rs.exceptions\n_argument_failed\n.")
    assert "ValueError: first" in str(by_name("g", inner))
    with pytest.raises(AttributeError, match="has no attribute '_nothing'"):
        _ = exceptions._nothing
