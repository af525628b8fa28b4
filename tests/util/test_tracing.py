"""Spans of OpenTelemetry: which there are, what continues what, and that nothing is there while nobody asks."""

import json
from pathlib import Path
from typing import Any

import pytest
from under_test import command, ray, ray_rs_only, run_driver, wait_until

pytestmark = ray_rs_only("attributes and names are Ray's, but Ray's need its own versions of OpenTelemetry")

# A user's hook: each process writes its spans to a file of its own.
HOOK = """
import os, sys, time
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

def _provider(processor):
    out = open(os.path.join(os.environ["SPANS"], f"{os.getpid()}.json"), "a")
    provider = TracerProvider()
    exporter = ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\\n")
    provider.add_span_processor(processor(exporter))
    trace.set_tracer_provider(provider)

def set_up():
    _provider(SimpleSpanProcessor)

def in_batches():
    # By itself it would send nothing before a minute is over.
    _provider(lambda exporter: BatchSpanProcessor(exporter, schedule_delay_millis=60_000))

def slowly():
    # As a collector far away, which has taken a span when the session would have ended already.
    class Slow(ConsoleSpanExporter):
        def export(self, spans):
            time.sleep(0.4)
            return super().export(spans)

    out = open(os.path.join(os.environ["SPANS"], f"{os.getpid()}.json"), "a")
    provider = TracerProvider()
    exporter = Slow(out=out, formatter=lambda span: span.to_json(indent=None) + "\\n")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=60_000))
    trace.set_tracer_provider(provider)

def driver_only():
    if "ray_rs._worker_main" in sys.modules:
        raise OSError("no collector here")
    set_up()
"""


# Of the process `pid`: killed, if its session ended before.
WAIT_FOR_ITS_END = """
        import time

        deadline = time.monotonic() + 30
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
"""


class Spans:
    """What the processes of a driver have written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[dict[str, Any]]:
        lines = [line for file in self.folder.glob("*.json") for line in file.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.all() if span["name"] == name]

    def one(self, name: str) -> dict[str, Any]:
        found = self.named(name)
        assert len(found) == 1, f"{name}: {sorted(span['name'] for span in self.all())}"
        return found[0]

    def pair(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The span of a call and that of its execution, which continues it."""
        call, execution = self.one(f"{name} ray.remote"), self.one(f"{name} ray.remote_worker")
        assert call["kind"] == "SpanKind.PRODUCER"
        assert execution["kind"] == "SpanKind.CONSUMER"
        assert execution["parent_id"] == call["context"]["span_id"]
        assert execution["context"]["trace_id"] == call["context"]["trace_id"]
        return call, execution


@pytest.fixture
def spans(tmp_path) -> Spans:
    (tmp_path / "spans").mkdir()
    (tmp_path / "hooks.py").write_text(HOOK)
    return Spans(tmp_path / "spans")


def environment(spans: Spans) -> dict[str, str]:
    return {"SPANS": str(spans.folder), "PYTHONPATH": str(spans.folder.parent)}


def traced(spans: Spans, body: str, hook: str = "hooks:set_up", **init: Any) -> Any:
    given = "".join(f", {name}={value!r}" for name, value in init.items())
    start = f"ray.init(num_cpus=2, include_dashboard=False, _tracing_startup_hook={hook!r}{given})\n"
    import textwrap

    return run_driver(start + textwrap.dedent(body), env=environment(spans))


def test_a_trace_goes_through_nested_tasks_and_begins_in_the_driver(spans):
    traced(
        spans,
        """
        from opentelemetry import trace

        @ray.remote
        def inner(x):
            return x

        @ray.remote
        def outer(x, *, more):
            with trace.get_tracer("mine").start_as_current_span("in the task"):
                return ray.get(inner.remote(x + more))

        with trace.get_tracer("mine").start_as_current_span("in the driver"):
            assert ray.get(outer.remote(1, more=2)) == 3
        """,
    )
    outer_call, outer_run = spans.pair("__main__.outer")
    inner_call, _ = spans.pair("__main__.inner")
    assert outer_call["parent_id"] == spans.one("in the driver")["context"]["span_id"]
    assert spans.one("in the task")["parent_id"] == outer_run["context"]["span_id"]
    assert inner_call["parent_id"] == spans.one("in the task")["context"]["span_id"]
    assert len({span["context"]["trace_id"] for span in spans.all()}) == 1
    about = outer_run["attributes"]
    assert (about["ray.remote"], about["ray.function"]) == ("function", "__main__.outer")
    assert about["ray.job_id"] == outer_call["attributes"]["ray.job_id"]
    assert about["ray.pid"] != outer_call["attributes"]["ray.pid"]
    assert len(about["ray.task_id"]) == 48
    assert "ray.task_id" not in outer_call["attributes"]


def test_actors_of_all_kinds(spans):
    traced(
        spans,
        """
        @ray.remote
        class Plain:
            def __init__(self, start=0):
                self.value = start

            def add(self, more=1):
                self.value += more
                return self.value

        @ray.remote
        class Async:
            async def wait(self, other):
                return await other.add.remote(10)

            async def items(self):
                yield 1
                yield 2

        @ray.remote(max_concurrency=3)
        class Threaded:
            def echo(self, x):
                return x

        plain, waiting, threaded = Plain.remote(start=5), Async.remote(), Threaded.remote()
        assert ray.get(plain.add.remote()) == 6
        assert ray.get(waiting.wait.remote(plain)) == 16
        assert [ray.get(item) for item in waiting.items.options(num_returns="streaming").remote()] == [1, 2]
        assert ray.get(threaded.echo.remote(x=1)) == 1
        assert ray.get(plain.__ray_call__.remote(lambda self: self.value)) == 16
        """,
    )
    made, _ = spans.pair("Plain.__init__")
    assert made["attributes"]["ray.actor_method"] == "__init__"
    wait_call, wait_run = spans.pair("Async.wait")
    assert wait_call["attributes"]["ray.actor_id"] == wait_run["attributes"]["ray.actor_id"]
    assert wait_run["attributes"]["ray.actor_class"] == "Async"
    # Of two calls, that inside the coroutine continues it.
    added = [span["parent_id"] for span in spans.named("Plain.add ray.remote")]
    assert sorted(added, key=str) == sorted([None, wait_run["context"]["span_id"]], key=str)
    for name in ("Async.items", "Threaded.echo", "Plain.__ray_call__", "Async.__init__"):
        spans.pair(name)


def test_generators_are_traced_until_their_end_and_errors_are_told(spans):
    traced(
        spans,
        """
        @ray.remote
        def part():
            return 1

        @ray.remote
        def items(n):
            for number in range(n):
                yield number + ray.get(part.remote())

        @ray.remote(max_retries=0)
        def fail():
            raise KeyError("lost")

        assert [ray.get(item) for item in items.remote(2)] == [1, 2]
        try:
            ray.get(fail.remote())
        except KeyError:
            pass
        """,
    )
    _, run = spans.pair("__main__.items")
    assert [span["parent_id"] for span in spans.named("__main__.part ray.remote")] == [run["context"]["span_id"]] * 2
    assert run["end_time"] >= max(span["end_time"] for span in spans.named("__main__.part ray.remote"))
    _, failed = spans.pair("__main__.fail")
    assert failed["status"] == {"status_code": "ERROR", "description": "KeyError: 'lost'"}
    assert failed["events"][0]["attributes"]["exception.type"] == "KeyError"


def test_a_call_that_cannot_be_submitted_has_a_span_with_its_error(spans):
    traced(
        spans,
        """
        import threading

        @ray.remote
        def f(x):
            return x

        for wrong in ((threading.Lock(),), ()):
            try:
                f.remote(*wrong)
            except TypeError:
                continue
            raise SystemExit("it was submitted")
        """,
    )
    # What does not fit the signature is no call.
    refused = spans.one("__main__.f ray.remote")
    assert refused["status"]["status_code"] == "ERROR"


def test_spans_of_a_worker_arrive_though_it_is_killed_with_its_session(spans):
    traced(
        spans,
        """
        import os, time

        @ray.remote
        def f():
            return os.getpid()

        pid = ray.get(f.remote())
        written = os.path.join(os.environ["SPANS"], f"{pid}.json")
        deadline = time.monotonic() + 30
        while not os.path.getsize(written):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        """,
        hook="hooks:in_batches",
    )
    spans.pair("__main__.f")


def test_shutdown_waits_for_the_last_spans_of_all_workers(spans):
    traced(
        spans,
        """
        @ray.remote(num_cpus=0)
        class Actor:
            def last(self, number):
                return number

        actors = [Actor.remote() for _ in range(4)]
        assert ray.get([actor.last.remote(number) for number, actor in enumerate(actors)]) == [0, 1, 2, 3]
        ray.shutdown()
        """,
        hook="hooks:slowly",
    )
    assert len(spans.named("Actor.last ray.remote_worker")) == 4


def test_an_actor_that_leaves_gives_its_last_spans_away(spans):
    traced(
        spans,
        f"""
        import os

        @ray.remote
        class Actor:
            def pid(self):
                return os.getpid()

            def leave(self):
                ray.actor.exit_actor()

        actor = Actor.remote()
        pid = ray.get(actor.pid.remote())
        try:
            ray.get(actor.leave.remote())
        except ray.exceptions.RayActorError:
            pass
        {WAIT_FOR_ITS_END}
        """,
        hook="hooks:in_batches",
    )
    _, left = spans.pair("Actor.leave")
    assert left["status"]["status_code"] == "UNSET"


def test_a_hook_that_fails_in_workers_costs_no_task(spans):
    done = traced(
        spans,
        """
        import os

        @ray.remote
        def f(x):
            return os.readlink("/proc/self/fd/2")

        print(open(ray.get(f.remote(x=1))).read())
        """,
        hook="hooks:driver_only",
    )
    assert "not traced: the hook 'hooks:driver_only' failed: OSError('no collector here')" in done.stdout
    assert [span["kind"] for span in spans.all()] == ["SpanKind.PRODUCER"]


@pytest.mark.parametrize(
    ("hook", "error", "text"),
    [
        (7, TypeError, "must be a text"),
        ("hooks", ValueError, "not of the form"),
        (":f", ValueError, "not of the form"),
        ("no_such_module_here:f", ValueError, "cannot be imported"),
        ("json:no_such_function", ValueError, "json has no no_such_function"),
        ("json:__name__", ValueError, "is no function"),
    ],
)
def test_a_wrong_hook_is_refused_before_anything_starts(no_cluster, hook, error, text):
    with pytest.raises(error, match=text):
        ray.init(num_cpus=1, _tracing_startup_hook=hook)
    assert not ray.is_initialized()


def test_nothing_of_it_is_there_unless_asked_for(spans):
    run_driver(
        """
        import sys

        ray.init(num_cpus=1, include_dashboard=False)

        @ray.remote
        def modules(**given):
            return [name for name in sys.modules if "opentelemetry" in name or name.endswith("_tracing")], given

        assert ray.get(modules.remote(x=1)) == ([], {"x": 1})
        assert not [name for name in sys.modules if "opentelemetry" in name or name.endswith("_tracing")]
        """
    )


def test_sessions_without_a_hook_follow_one_with_it_in_the_same_process(spans):
    traced(
        spans,
        """
        @ray.remote
        def f(x):
            return x

        assert ray.get(f.remote(1)) == 1
        ray.shutdown()
        ray.init(num_cpus=1, include_dashboard=False)
        assert ray.get(f.remote(2)) == 2
        ray.shutdown()
        ray.init(num_cpus=1, include_dashboard=False, _tracing_startup_hook="hooks:set_up")
        assert ray.get(f.remote(3)) == 3
        """,
    )
    assert len(spans.named("__main__.f ray.remote")) == len(spans.named("__main__.f ray.remote_worker")) == 2


def test_the_hook_of_a_started_node_and_actors_of_jobs_that_are_not_traced(no_cluster, spans):
    maker = """
        ray.init(address="auto", namespace="spans")

        @ray.remote(num_cpus=0)
        class Shared:
            def echo(self, **given):
                return given

        shared = Shared.options(name="shared", lifetime="detached").remote()
        assert ray.get(shared.echo.remote(x=1)) == {"x": 1}
        """
    caller = """
        ray.init(address="auto", namespace="spans"%s)
        shared = ray.get_actor("shared")
        assert ray.get(shared.echo.remote(y=2)) == {"y": 2}
        """
    try:
        command("start", "--head", "--port=0", "--num-cpus=1", "--include-dashboard=false")
        run_driver(maker)
        run_driver(caller % ", _tracing_startup_hook='hooks:set_up'", env=environment(spans))
        assert [span["name"] for span in spans.all()] == ["Shared.echo ray.remote"]
        command("stop")
        command(
            "start", "--head", "--port=0", "--num-cpus=1", "--include-dashboard=false",
            "--tracing-startup-hook=hooks:set_up",
        )  # fmt: skip
        run_driver(maker, env=environment(spans))
        wait_until(lambda: len(spans.all()) == 5, "the spans of the second actor")
        run_driver(caller % "", env=environment(spans))
        assert len(spans.named("Shared.echo ray.remote")) == 3
        assert "not of the form" in command("start", "--head", "--tracing-startup-hook=hooks", status=2)
    finally:
        command("stop")


def test_the_hook_that_writes_to_files_of_this_machine(tmp_path):
    done = run_driver(
        """
        import os, sys
        from ray_rs.util.tracing import setup_local_tmp_tracing, tracing_helper

        setup_local_tmp_tracing.DIRECTORY = sys.argv[1]
        hook = "ray_rs.util.tracing.setup_local_tmp_tracing:setup_tracing"
        assert not tracing_helper._is_tracing_enabled()
        ray.init(num_cpus=1, include_dashboard=False, _tracing_startup_hook=hook)
        assert tracing_helper._is_tracing_enabled()

        @ray.remote
        def f():
            return 1

        f.remote()
        print(os.getpid())
        ray.shutdown()
        assert not tracing_helper._is_tracing_enabled()
        """,
        str(tmp_path),
    )
    (file,) = tmp_path.glob("*.txt")
    assert file.name == f"{done.stdout.split()[-1]}.txt"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [json.loads(line)["name"] for line in file.read_text().splitlines()] == ["__main__.f ray.remote"]
