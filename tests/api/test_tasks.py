"""`@ray.remote` functions: arguments, results, options, nesting, state of the workers."""

import collections
import dataclasses
import enum
import functools
import os
import sys
import threading
import time

import numpy as np
import pytest
from under_test import exceptions, ray, run_driver, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def echo(x):
    return x


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Colour(enum.IntEnum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")


class Named(str):
    pass


VALUES = [
    None,
    True,
    0,
    -1,
    2**63,
    2**200,
    1.5,
    float("inf"),
    "",
    "text \N{SNOWMAN}",
    b"",
    b"\0bytes",
    (),
    (1, (2, "x")),
    [],
    [1, [2.0, None]],
    {},
    {"a": {1: b"x"}},
    {1, 2},
    frozenset({3}),
    1 + 2j,
    range(3),
    slice(1, 2),
    Pair(1, 2),
    Point(1, 2.0),
    Colour.RED,
    Named("n"),
    collections.OrderedDict(a=1),
    collections.defaultdict(list, a=[1]),
    collections.deque([1, 2]),
    np.float32(1.5),
    np.datetime64("2024-01-01"),
    int,
    len,
    os.path,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_values_travel(value):
    result = ray.get(echo.remote(value))
    assert result == value
    assert type(result) is type(value)
    inside = ray.get(echo.remote([value, {"k": value}]))
    assert inside == [value, {"k": value}]


def test_odd_values_travel():
    assert ray.get(echo.remote(float("nan"))) != 0
    assert ray.get(echo.remote(lambda x: x + 1))(1) == 2
    loop = [1]
    loop.append(loop)
    again = ray.get(echo.remote(loop))
    assert again[1] is again
    assert ray.get(echo.remote(bytearray(b"ab"))) == b"ab"

    def outer(k):
        def inner(x):
            return x * k

        return inner

    assert ray.get(echo.remote(outer(3)))(5) == 15


def test_signatures():
    @ray.remote
    def f(a, b=2, *rest, c, d=4, **more):
        return a, b, rest, c, d, more

    assert ray.get(f.remote(1, c=3)) == (1, 2, (), 3, 4, {})
    assert ray.get(f.remote(1, 5, 6, 7, c=3, e=9)) == (1, 5, (6, 7), 3, 4, {"e": 9})
    with pytest.raises(TypeError, match="missing a required"):
        f.remote(c=3)
    with pytest.raises(TypeError, match="missing a required"):
        f.remote(1)

    @ray.remote
    def g(a):
        return a

    with pytest.raises(TypeError, match="too many positional arguments"):
        g.remote(1, 2)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        g.remote(1, z=2)
    assert ray.get(g.remote(a=ray.put("by keyword"))) == "by keyword"
    wide = {f"k{i}": i for i in range(1000)}
    assert ray.get(f.remote(1, c=2, **wide))[5] == wide


def test_called_directly():
    with pytest.raises(TypeError, match=r"Remote functions cannot be called directly.*\.remote\("):
        echo(1)
    assert echo._function(4) == 4


def test_ref_arguments_are_resolved():
    @ray.remote
    def mixed(a, b, nested):
        return a, b, type(nested[0]).__name__, ray.get(nested[0])

    slow = echo.remote("late")
    assert ray.get(mixed.remote(slow, b=ray.put("kw"), nested=[echo.remote("in")])) == ("late", "kw", "ObjectRef", "in")


def test_a_chain():
    @ray.remote
    def add(x, y):
        return x + y

    ref = ray.put(0)
    for i in range(100):
        ref = add.remote(ref, i)
    assert ray.get(ref) == sum(range(100))


def test_many_argument_refs():
    @ray.remote
    def total(*xs):
        return sum(xs)

    assert ray.get(total.remote(*[ray.put(i) for i in range(300)])) == sum(range(300))
    assert ray.get(total.remote(*[echo.remote(i) for i in range(100)])) == sum(range(100))


def test_order_of_many():
    refs = [echo.remote(i) for i in range(3000)]
    assert ray.get(refs) == list(range(3000))


def test_multiple_returns():
    @ray.remote(num_returns=3)
    def three():
        return "a", "b", np.arange(200_000)

    a, b, c = three.remote()
    assert ray.get([b, a]) == ["b", "a"]
    assert ray.get(c)[-1] == 199_999

    @ray.remote
    def some(n):
        return list(range(n))

    assert ray.get(some.options(num_returns=2).remote(2)) == [0, 1]
    assert some.options(num_returns=0).remote(0) is None
    for ref in some.options(num_returns=2).remote(3):
        with pytest.raises(ValueError, match="returned 3 objects, but num_returns=2"):
            ray.get(ref)
    with pytest.raises(TypeError, match=r"len\(\)"):
        ray.get(echo.options(num_returns=2).remote(5)[0])


def test_nested():
    @ray.remote
    def fib(n):
        if n < 2:
            return n
        return sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert ray.get(fib.remote(7)) == 13


def test_a_task_returns_a_ref():
    @ray.remote
    def outer():
        return echo.remote("deep"), ray.put("put")

    task, put = ray.get(outer.remote())
    assert ray.get([task, put]) == ["deep", "put"]


def test_what_a_function_captures():
    factor = 2

    @ray.remote
    def scale(x):
        return x * factor

    assert ray.get(scale.remote(2)) == 4
    factor = 3
    assert ray.get(scale.remote(2)) == 4  # captured at the first call


def test_redefinition():
    def make(k):
        @ray.remote
        def f():
            return k

        return f

    assert [ray.get(make(k).remote()) for k in range(5)] == list(range(5))


def test_what_can_be_remote():
    assert ray.get(ray.remote(lambda: 5).remote()) == 5
    assert ray.get(ray.remote(num_cpus=1)(lambda x: x).remote(6)) == 6

    @ray.remote
    def documented(a: int) -> int:
        """What it does."""
        return a

    assert "What it does" in (documented.remote.__doc__ or documented.__doc__)
    with pytest.raises(AssertionError, match=r"The @ray.remote decorator must be applied"):
        ray.remote()
    with pytest.raises(AssertionError, match=r"The @ray.remote decorator must be applied"):
        ray.remote(5)
    with pytest.raises((TypeError, AttributeError)):
        ray.remote(num_cpus=1)(5)
    with pytest.raises(ValueError, match="'async def' should not be used for remote tasks"):

        @ray.remote
        async def coroutine():
            pass


def test_remote_functions_travel():
    @ray.remote
    def call(f, x):
        return ray.get(f.remote(x))

    assert ray.get(call.remote(echo, 3)) == 3


def test_functions_as_partials_and_recursion():
    @ray.remote
    def apply(f, *args):
        return f(*args)

    assert ray.get(apply.remote(functools.partial(max, 3), 5)) == 5
    assert ray.get(apply.remote(sorted, [3, 1])) == [1, 3]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"nonsense": 1}, ValueError, "Invalid option keyword nonsense for remote functions"),
        ({"max_restarts": 1}, ValueError, "Invalid option keyword max_restarts"),
        ({"num_cpus": "1"}, TypeError, "The type of keyword 'num_cpus' must be"),
        ({"num_cpus": -1}, ValueError, "cannot be negative|negative"),
        ({"resources": {"x": 0.00001}}, ValueError, "precision|0.0001"),
        ({"resources": {"CPU": 1}}, ValueError, "num_cpus"),
        ({"num_returns": -1}, ValueError, "num_returns|greater|>= 0|negative"),
        ({"num_returns": "streaming"}, ValueError, "can only be used with generator functions"),
        ({"max_retries": -2}, ValueError, "max_retries|-1"),
        ({"retry_exceptions": 5}, (ValueError, TypeError), "retry_exceptions"),
        ({"name": 5}, TypeError, "name"),
        ({"max_calls": -1}, ValueError, "max_calls|negative|>= 0"),
        ({"scheduling_strategy": 5}, TypeError, "scheduling_strategy"),
    ],
    ids=lambda value: "-".join(map(str, value.items())) if isinstance(value, dict) else "",
)
def test_bad_options(options, error, text):
    def f():
        return 1

    with pytest.raises(error, match=text):
        ray.remote(**options)(f).remote()


def test_options_overlay():
    @ray.remote(num_cpus=1)
    def resources():
        return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(resources.remote()) == {"CPU": 1.0}
    assert ray.get(resources.options(num_cpus=2).remote()) == {"CPU": 2.0}
    assert ray.get(resources.options(num_cpus=0.5).remote()) == {"CPU": 0.5}
    assert ray.get(resources.remote()) == {"CPU": 1.0}
    with pytest.raises(ValueError, match="max_calls"):
        resources.options(max_calls=1)


def test_what_is_about_listings_of_tasks_is_taken():
    """Libraries on Ray set these; they change nothing of what a call does."""

    @ray.remote(num_cpus=0)
    class Actor:
        @ray.method(enable_task_events=False)
        def one(self):
            return 1

    quiet = {"enable_task_events": False, "_labels": {"library": "test"}}
    actor = Actor.options(**quiet).remote()
    assert ray.get([echo.options(**quiet).remote(2), actor.one.remote(), actor.one.options(**quiet).remote()]) == [
        2,
        1,
        1,
    ]
    with pytest.raises(TypeError, match="_labels"):
        echo.options(_labels="library")


def test_two_run_at_a_time_and_no_more(tmp_path):
    @ray.remote
    def track(i):
        (tmp_path / str(i)).touch()
        running = len(list(tmp_path.iterdir()))
        time.sleep(0.1)
        (tmp_path / str(i)).unlink()
        return running

    assert max(ray.get([track.remote(i) for i in range(8)])) <= 2


def test_tasks_run_beside_one_another(tmp_path):
    """Two tasks that wait for one another can only end if both run."""

    @ray.remote
    def meet(mine, other):
        (tmp_path / mine).touch()
        deadline = time.monotonic() + 20
        while not (tmp_path / other).exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return True

    assert ray.get([meet.remote("a", "b"), meet.remote("b", "a")]) == [True, True]


def test_a_long_task_does_not_hold_up_short_ones():
    @ray.remote
    def sleep(seconds):
        time.sleep(seconds)

    long = sleep.remote(3)
    assert ray.get([echo.remote(i) for i in range(500)], timeout=30) == list(range(500))
    assert ray.wait([long], timeout=0)[1] == [long]
    ray.get(long)


def test_workers_keep_their_state_and_our_surroundings():
    @ray.remote
    def surroundings():
        return os.getcwd(), os.getpid(), "pytest" in sys.modules, threading.current_thread() is threading.main_thread()

    cwd, pid, _, main = ray.get(surroundings.remote())
    assert cwd == os.getcwd()
    assert pid != os.getpid()
    assert main
    pids = {result[1] for result in ray.get([surroundings.remote() for _ in range(50)])}
    assert len(pids) <= 4


def test_retry_exceptions(tmp_path):
    @ray.remote
    def flaky(name, good_after, error=OSError):
        with open(tmp_path / name, "a") as file:
            file.write("x")
            file.flush()
            tries = file.tell()
        if tries <= good_after:
            raise error("not yet")
        return tries

    assert ray.get(flaky.options(retry_exceptions=True, max_retries=3).remote("all", 2)) == 3
    assert ray.get(flaky.options(retry_exceptions=[OSError], max_retries=3).remote("list", 2)) == 3
    with pytest.raises(KeyError):
        ray.get(flaky.options(retry_exceptions=[OSError], max_retries=3).remote("other", 2, KeyError))
    assert (tmp_path / "other").read_text() == "x"
    with pytest.raises(OSError, match="not yet"):
        ray.get(flaky.options(retry_exceptions=True, max_retries=1).remote("never", 9))
    assert (tmp_path / "never").read_text() == "xx"
    with pytest.raises(OSError):
        ray.get(flaky.remote("default", 9))
    assert (tmp_path / "default").read_text() == "x"


def test_work_gives_its_cpus_back():
    ray.get([echo.remote(i) for i in range(100)])
    wait_until(lambda: ray.available_resources().get("CPU") == 2, "both CPUs to be free")


def test_a_task_that_starts_tasks_and_leaves():
    @ray.remote
    def starter():
        return [echo.remote(i) for i in range(10)]

    assert ray.get(ray.get(starter.remote())) == list(range(10))


def test_unfetched_errors_do_no_harm():
    @ray.remote
    def fail():
        raise ValueError("nobody looks")

    for _ in range(5):
        fail.remote()
    assert ray.get(echo.remote(1)) == 1


def test_get_in_a_task_times_out():
    @ray.remote
    def impatient():
        @ray.remote
        def slow():
            time.sleep(2)

        try:
            ray.get(slow.remote(), timeout=0.1)
        except exceptions.GetTimeoutError:
            return "timed out"

    assert ray.get(impatient.remote()) == "timed out"


def test_the_collector_may_run_while_a_remote_function_is_made():
    """CPython 3.11 makes its `__dict__` when the collector can see it but nothing is in it yet."""
    done = run_driver(
        """
        import gc

        def f():
            pass

        kept = [{} for _ in range(100)]
        for threshold in range(1, 8):
            gc.set_threshold(threshold)
            kept += [ray.remote(f) for _ in range(50)]
        print("GOOD")
        """
    )
    assert "GOOD" in done.stdout


def test_a_worker_at_its_last_call_stays_for_what_it_owns():
    @ray.remote
    def inner():
        return "made later"

    @ray.remote(max_calls=1)
    def outer():
        return os.getpid(), ray.put("put"), inner.remote()

    @ray.remote(max_calls=1)
    def owns_nothing():
        return os.getpid()

    first, *refs = ray.get(outer.remote())
    second, *more = ray.get(outer.remote())
    third = ray.get(owns_nothing.remote())
    assert len({first, second, third}) == 3, "each took its last call"
    wait_until(lambda: not os.path.exists(f"/proc/{third}"), "the one that owns nothing to end")
    assert ray.get(refs) == ray.get(more) == ["put", "made later"]
    assert os.path.exists(f"/proc/{first}")
    assert ray.get([inner.remote() for _ in range(10)]) == ["made later"] * 10, "its resources are free"
    del refs
    wait_until(lambda: not os.path.exists(f"/proc/{first}"), "the first to end")
    assert ray.get(more) == ["put", "made later"]
