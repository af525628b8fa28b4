"""Exceptions of user code: raised in the caller as themselves and as RayTaskError, with the remote traceback."""

import asyncio
import errno
import sys
import threading

import numpy as np
import pytest
from under_test import IS_RAY, exceptions, ray, ray_rs_only

pytestmark = pytest.mark.usefixtures("cluster")


class Plain(Exception):
    pass


class WithAttributes(Exception):
    def __init__(self, text, code):
        super().__init__(text, code)
        self.code = code


class ArgsDoNotMatch(Exception):
    """Can be pickled, but not unpickled: the constructor wants two arguments and `args` holds one."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


class HoldsALock(Exception):
    def __init__(self, text="locked"):
        super().__init__(text)
        self.lock = threading.Lock()


class NoSubclasses(Exception):
    def __init_subclass__(cls, **kwargs):
        raise TypeError("cannot be subclassed")


@ray.remote
def throw(error):
    raise error


@ray.remote
def pass_on(x):
    return x


def raised_by(ref):
    with pytest.raises(exceptions.RayError) as raised:
        ray.get(ref)
    return raised.value


@pytest.mark.parametrize(
    "error",
    [ValueError("text"), KeyError("k"), ZeroDivisionError("z"), Plain("p"), StopIteration(5), AssertionError("a")],
)
def test_caught_as_itself_and_as_task_error(error):
    found = raised_by(throw.remote(error))
    assert isinstance(found, exceptions.RayTaskError)
    assert isinstance(found, type(error))
    assert type(found.cause) is type(error)
    assert found.cause.args == error.args
    assert found.args == (found.cause,)
    assert type(error).__name__ in type(found).__name__
    assert "throw" in str(found)
    assert "test_errors.py" in str(found)
    assert f"{type(error).__name__}" in str(found)


def test_attributes_are_forwarded():
    found = raised_by(throw.remote(WithAttributes("text", 42)))
    assert isinstance(found, WithAttributes)
    assert found.code == 42
    missing = raised_by(missing_file.remote())
    assert isinstance(missing, FileNotFoundError)
    assert missing.cause.errno == errno.ENOENT


@ray.remote
def missing_file():
    open("/no/such/file")


@ray_rs_only("on Ray's exception these are None")
def test_attributes_of_os_errors_are_forwarded():
    missing = raised_by(missing_file.remote())
    assert missing.errno == errno.ENOENT
    assert missing.filename == "/no/such/file"


def test_the_text_shows_the_users_frames_and_the_chain():
    @ray.remote
    def outer():
        def helper():
            raise KeyError("first")

        try:
            helper()
        except KeyError as error:
            raise RuntimeError("second") from error

    text = str(raised_by(outer.remote()))
    assert "ray::outer()" in text
    assert "pid=" in text
    assert "in helper" in text
    assert "KeyError: 'first'" in text
    assert "The above exception was the direct cause" in text
    assert "RuntimeError: second" in text
    assert text.index("first") < text.index("second")


def test_system_exit_like_exceptions_are_plain_task_errors():
    class Odd(BaseException):
        pass

    found = raised_by(throw.remote(Odd("odd")))
    assert isinstance(found, exceptions.RayTaskError)
    assert "odd" in str(found)


class Odd(BaseException):
    pass


def test_users_exceptions_that_are_no_exceptions():
    """`BaseException` says that few should catch it: who names it does, and who catches all errors of tasks."""
    with pytest.raises(Odd) as raised:
        ray.get(throw.remote(Odd("odd")))
    assert isinstance(raised.value, exceptions.RayTaskError)


@pytest.mark.parametrize("error", [KeyboardInterrupt("k"), GeneratorExit("g"), asyncio.CancelledError("c")])
def test_what_steers_a_program_does_not_steer_the_caller(error):
    found = raised_by(throw.remote(error))
    assert IS_RAY or not isinstance(found, type(error))


@pytest.mark.parametrize("error", [MemoryError("m"), OSError(errno.ENOENT, "no", "file"), RecursionError("r")])
def test_builtins_with_constructors_of_their_own(error):
    assert isinstance(raised_by(throw.remote(error)), type(error))


def test_a_task_error_raised_again_keeps_its_cause():
    @ray.remote
    def inner():
        raise Exception("of no class of its own")

    @ray.remote
    def outer():
        ray.get(inner.remote())

    found = raised_by(outer.remote())
    assert type(found.cause) is Exception
    assert "ray::outer()" in str(found) and "ray::inner()" in str(found)


class Unreadable:
    def __reduce__(self):
        return read_back, ()


def read_back():
    raise RuntimeError("not here")


def test_an_argument_that_cannot_be_read():
    found = raised_by(pass_on.remote(Unreadable()))
    assert isinstance(found, exceptions.RayTaskError)
    assert isinstance(found, exceptions.RaySystemError)
    assert "input arguments" in str(found)
    assert "not here" in str(found)


def test_an_exception_that_cannot_be_pickled():
    @ray.remote
    def locked():
        raise HoldsALock

    found = raised_by(locked.remote())
    assert isinstance(found, exceptions.RayTaskError)
    assert isinstance(found.cause, exceptions.RayError)
    assert "locked" in str(found)
    assert "HoldsALock" in str(found)


def test_an_exception_that_cannot_be_unpickled():
    @ray.remote
    def mismatch():
        raise ArgsDoNotMatch("one", "two")

    found = raised_by(mismatch.remote())
    assert "ArgsDoNotMatch" in str(found)
    assert "one two" in str(found)


def test_an_exception_class_that_cannot_be_subclassed():
    @ray.remote
    def final():
        raise NoSubclasses("final")

    for _ in range(3):  # also when it was refused before
        found = raised_by(final.remote())
        assert type(found) is exceptions.RayTaskError
        assert type(found.cause) is NoSubclasses
        assert "final" in str(found)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_exception_groups():
    @ray.remote
    def group():
        raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])  # noqa: F821

    found = raised_by(group.remote())
    assert isinstance(found, ExceptionGroup)  # noqa: F821
    assert [type(error) for error in found.exceptions] == [ValueError, KeyError]


def test_a_failed_argument_fails_the_task(tmp_path):
    @ray.remote
    def step(x, name):
        (tmp_path / name).touch()
        return x

    ref = throw.remote(Plain("origin"))
    for i in range(5):
        ref = step.remote(ref, f"ran-{i}")
    found = raised_by(ref)
    assert isinstance(found, Plain)
    assert "origin" in str(found)
    assert "input arguments" in str(found)
    text = str(found)
    assert text.index("ray::step()") < text.index("ray::throw()")
    assert list(tmp_path.iterdir()) == []


@ray.remote
def throw_with(make):
    error = Plain("full")
    error.payload = make()
    raise error


def test_a_large_error_of_an_argument():
    """It lies in the store once, however many tasks it fails."""
    bad = throw_with.remote(lambda: np.arange(100_000))
    refs = [pass_on.remote(pass_on.remote(bad)) for _ in range(3)]
    refs += pass_on.options(num_returns=2).remote(bad)
    ray.wait([bad])
    del bad
    for ref in refs:
        found = raised_by(ref)
        assert isinstance(found, Plain)
        assert "ray::pass_on()" in str(found) and "ray::throw_with()" in str(found)
        assert found.payload.sum() == sum(range(100_000))


def test_references_inside_the_error_of_an_argument():
    bad = throw_with.remote(lambda: [ray.put("kept")])
    refs = pass_on.options(num_returns=3).remote(bad)
    ray.wait([bad])
    del bad
    for ref in refs:
        assert ray.get(raised_by(ref).payload[0]) == "kept"


def test_the_error_of_the_first_of_a_long_chain():
    ref = throw.remote(Plain("origin"))
    for _ in range(2000):
        ref = pass_on.remote(ref)
    assert isinstance(raised_by(ref), Plain)


def test_the_error_of_a_constructors_argument():
    @ray.remote
    class Box:
        def __init__(self, value):
            self.value = value

        def get(self):
            return self.value

    with pytest.raises(exceptions.ActorDiedError, match="origin"):
        ray.get(Box.remote(throw.remote(Plain("origin"))).get.remote())


def test_reraised_errors_do_not_nest():
    @ray.remote
    def through():
        return ray.get(throw.remote(Plain("inner")))

    @ray.remote
    def through_again():
        return ray.get(through.remote())

    found = raised_by(through_again.remote())
    assert isinstance(found, Plain)
    assert type(found.cause) is Plain
    text = str(found)
    for name in ("through_again", "through", "throw"):
        assert f"ray::{name}()" in text


def test_an_error_can_be_caught_in_a_task():
    @ray.remote
    def careful():
        try:
            ray.get(throw.remote(Plain("x")))
        except Plain as error:
            return f"caught {type(error.cause).__name__}"

    assert ray.get(careful.remote()) == "caught Plain"


def test_an_exception_as_a_value_is_not_raised():
    @ray.remote
    def give():
        return ValueError("just a value")

    value = ray.get(give.remote())
    assert type(value) is ValueError


def test_unpicklable_argument():
    @ray.remote
    def f(x):
        return x

    with pytest.raises(TypeError, match="Could not serialize the argument"):
        f.remote(threading.Lock())


def test_unpicklable_closure():
    lock = threading.Lock()

    @ray.remote
    def f():
        return lock

    with pytest.raises(TypeError, match=r"(?i)could not serialize the function.*f"):
        f.remote()


@ray_rs_only("Ray's report lists the object, but not the way to it")
def test_the_report_names_the_way_to_the_object():
    class Config:
        def __init__(self):
            self.handlers = [{"guard": threading.Lock()}]

    @ray.remote
    def f(config):
        return config

    with pytest.raises(TypeError, match=r"handlers\[0\]\[['\"]guard['\"]\]"):
        f.remote(config=Config())
    lock = threading.Lock()

    @ray.remote
    def g():
        with lock:
            return 1

    with pytest.raises(TypeError, match="lock"):
        g.remote()


def test_a_result_that_cannot_be_pickled():
    @ray.remote
    def give():
        return threading.Lock()

    found = raised_by(give.remote())
    assert isinstance(found, TypeError)
    assert "lock" in str(found)


def test_errors_travel():
    for error in (
        exceptions.GetTimeoutError("t"),
        exceptions.WorkerCrashedError(),
        exceptions.TaskCancelledError(),
        exceptions.ObjectStoreFullError("full"),
        exceptions.RaySystemError("sys"),
        exceptions.PendingCallsLimitExceeded("many"),
        exceptions.ActorUnavailableError("away", bytes(16)),
    ):
        again = ray.get(ray.put([error]))[0]
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_the_family_tree():
    e = exceptions
    assert issubclass(e.RayTaskError, e.RayError)
    assert issubclass(e.GetTimeoutError, TimeoutError)
    assert issubclass(e.ActorDiedError, e.RayActorError)
    assert issubclass(e.ActorUnavailableError, e.RayActorError)
    assert issubclass(e.OwnerDiedError, e.ObjectLostError)
    assert issubclass(e.ReferenceCountingAssertionError, AssertionError)
    for name in (
        "WorkerCrashedError TaskCancelledError ObjectStoreFullError OutOfMemoryError RuntimeEnvSetupError "
        "NodeDiedError TaskUnschedulableError ActorUnschedulableError ObjectReconstructionFailedError OutOfDiskError "
        "RaySystemError LocalRayletDiedError CrossLanguageError PendingCallsLimitExceeded"
    ).split():
        assert issubclass(getattr(e, name), e.RayError), name
    if not IS_RAY:
        assert ray.exceptions is exceptions


def test_an_error_leaves_nothing_to_the_garbage_collector():
    @ray.remote
    class Fails:
        def __init__(self):
            import gc

            gc.collect()
            gc.disable()

        def fail(self):
            raise ValueError

        def left(self):
            import gc

            return gc.collect()

    actor = Fails.remote()
    # What is made once, at the first error, is none of it.
    for _ in range(2):
        for _ in range(20):
            with pytest.raises(ValueError):
                ray.get(actor.fail.remote())
        left = ray.get(actor.left.remote())
    assert left < 20
