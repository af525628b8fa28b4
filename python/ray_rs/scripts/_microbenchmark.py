"""`microbenchmark`: how fast small calls and copies are on this machine, with the rows of Ray's command of this name.

A first look: it takes a minute, measures nothing but this engine, and each row in the same process. How figures are
compared with care is in the project's benchmarks/.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ray_rs import _processes
from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format

__all__ = ["add"]

_BATCH = 1000
_ROUNDS = 4
_LARGE_BYTES = 100 << 20


@dataclass(frozen=True)
class _Row:
    """A measurement.

    Attributes:
        name: As Ray has it.
        body: What is timed.
        count: How many of what is counted one call of `body` does.
    """

    name: str
    body: Callable[[], object]
    count: float = 1


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser(
        "microbenchmark",
        help="measure small calls and copies on this machine",
        description="Starts a session of its own and measures calls of tasks and actors, small values and large ones; "
        "what is printed is how many a second, and how far rounds differ. Other work on the machine makes it worse.",
    )
    parser.add_argument("--rows", default="", metavar="TEXT", help="only those with one of these in the name: a,b")
    parser.add_argument(
        "--seconds", type=_seconds, default=0.5, metavar="S", help=f"of each of {_ROUNDS} rounds of a row (0.5)"
    )
    add_format(parser)
    parser.set_defaults(run=_microbenchmark)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _microbenchmark(arguments: argparse.Namespace) -> int:
    import ray_rs as ray

    parts = [part for part in arguments.rows.split(",") if part] or [""]
    told = []
    ray.init("local", include_dashboard=False, logging_level="error")
    try:
        for family in (_objects, _tasks, _actors, _async_actors, _groups):
            for row in family():
                if not any(part in row.name for part in parts):
                    continue
                per_second, deviation = _measured(row, arguments.seconds)
                told.append({"name": row.name, "per_second": per_second, "deviation": deviation})
                if arguments.format == "default":
                    print(f"{row.name} per second {per_second:.2f} +- {deviation:.2f}", flush=True)
    finally:
        ray.shutdown()
    if not told:
        raise ValueError(f"No row has {' or '.join(map(repr, parts))} in its name.")
    if arguments.format != "default":
        print(_output.structured(told, arguments.format))
    return 0


def _measured(row: _Row, seconds: float) -> tuple[float, float]:
    """The mean of the rounds, and their standard deviation."""
    row.body()  # starts workers
    figures = []
    for _ in range(_ROUNDS):
        calls, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds or not calls:
            row.body()
            calls += 1
        figures.append(calls * row.count / took)
    return statistics.mean(figures), statistics.pstdev(figures)


# ---------------------------------------------------------------------------------------------------------------- rows


def _objects() -> Iterator[_Row]:
    import ray_rs as ray

    small = ray.put(0)
    yield _Row("single client get calls (Plasma Store)", lambda: ray.get(small))
    yield _Row("single client put calls (Plasma Store)", lambda: ray.put(0))

    @ray.remote
    def put_small() -> None:
        for _ in range(100):
            ray.put(0)

    yield _Row("multi client put calls (Plasma Store)", lambda: ray.get([put_small.remote() for _ in range(10)]), 1000)
    # What has no array to put has no such row.
    if importlib.util.find_spec("numpy") is not None:
        import numpy as np

        large = np.ones(_LARGE_BYTES // 8)
        yield _Row("single client put gigabytes", lambda: ray.put(large), _LARGE_BYTES / 1e9)

    @ray.remote
    def make_refs() -> list[Any]:
        return [ray.put(1) for _ in range(10 * _BATCH)]

    many = make_refs.remote()
    yield _Row("single client get object containing 10k refs", lambda: ray.get(many))


def _tasks() -> Iterator[_Row]:
    import ray_rs as ray

    @ray.remote
    def nothing() -> bytes:
        return b"ok"

    def wait_for_all() -> None:
        waiting = [nothing.remote() for _ in range(_BATCH)]
        while waiting:
            _, waiting = ray.wait(waiting)

    yield _Row("single client wait 1k refs", wait_for_all)
    yield _Row("single client tasks sync", lambda: ray.get(nothing.remote()))
    yield _Row("single client tasks async", lambda: ray.get([nothing.remote() for _ in range(_BATCH)]), _BATCH)

    @ray.remote(num_cpus=0)
    class Client:
        def call(self) -> None:
            ray.get([nothing.remote() for _ in range(_BATCH)])

    clients = [Client.remote() for _ in range(4)]
    yield _Row("multi client tasks async", lambda: ray.get([client.call.remote() for client in clients]), 4 * _BATCH)


def _actors() -> Iterator[_Row]:
    import ray_rs as ray

    @ray.remote(num_cpus=0)
    class Server:
        def nothing(self, value: object = None) -> bytes:
            return b"ok"

    @ray.remote(num_cpus=0)
    class Client:
        def __init__(self, servers: list[Any]) -> None:
            self._servers = servers

        def call(self) -> None:
            ray.get([server.nothing.remote() for server in self._servers for _ in range(_BATCH)])

        def call_with_argument(self) -> None:
            value = ray.put(0)
            ray.get([server.nothing.remote(value) for server in self._servers for _ in range(_BATCH)])

    one, concurrent = Server.remote(), Server.options(max_concurrency=16).remote()
    yield _Row("1:1 actor calls sync", lambda: ray.get(one.nothing.remote()))
    yield _Row("1:1 actor calls async", lambda: ray.get([one.nothing.remote() for _ in range(_BATCH)]), _BATCH)
    yield _Row(
        "1:1 actor calls concurrent", lambda: ray.get([concurrent.nothing.remote() for _ in range(_BATCH)]), _BATCH
    )
    servers = [Server.remote() for _ in range(max(1, _processes.cpu_count() // 2))]
    client = Client.remote(servers)
    yield _Row("1:n actor calls async", lambda: ray.get(client.call.remote()), len(servers) * _BATCH)
    clients = [Client.remote([server]) for server in servers]
    yield _Row(
        "n:n actor calls async", lambda: ray.get([each.call.remote() for each in clients]), len(clients) * _BATCH
    )
    yield _Row(
        "n:n actor calls with arg async",
        lambda: ray.get([each.call_with_argument.remote() for each in clients]),
        len(clients) * _BATCH,
    )


def _async_actors() -> Iterator[_Row]:
    import ray_rs as ray

    @ray.remote(num_cpus=0)
    class Server:
        async def nothing(self, value: object = None) -> bytes:
            return b"ok"

    one = Server.remote()
    yield _Row("1:1 async-actor calls sync", lambda: ray.get(one.nothing.remote()))
    yield _Row("1:1 async-actor calls async", lambda: ray.get([one.nothing.remote() for _ in range(_BATCH)]), _BATCH)
    yield _Row(
        "1:1 async-actor calls with args async",
        lambda: ray.get([one.nothing.remote(number) for number in range(_BATCH)]),
        _BATCH,
    )


def _groups() -> Iterator[_Row]:
    from ray_rs.util.placement_group import placement_group, remove_placement_group

    def make_and_remove() -> None:
        groups = [placement_group([{"CPU": 0.001}]) for _ in range(100)]
        for group in groups:
            group.wait(timeout_seconds=30)
        for group in groups:
            remove_placement_group(group)

    yield _Row("placement group create/removal", make_and_remove, 100)
