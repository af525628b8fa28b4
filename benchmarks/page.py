"""The page: how soon is it there with 100,000 tasks on record, and what does it cost those who work?

    python benchmarks/page.py

The first needs chromium and playwright. For the second a program submits tasks and waits for them, by turns with and
without somebody who reads the stream of events of a view; what a browser needs to paint does not count, as it runs on
somebody's desk. Beside the rates stands what the service took of a processor.
"""

import argparse
import http.client
import os
import shutil
import statistics
import threading
import time

import ray_rs as ray
from ray_rs.scripts._dashboard import url_of

VIEWS = {
    "overview": "nodes,jobs,actors",
    "tasks": "tasks,logs",
    "actors": "actors,logs",
    "objects": "objects",
}


@ray.remote
def nothing() -> None:
    return None


def records(count: int) -> None:
    """Puts so many tasks on record, not faster than their owner sends them."""
    for _ in range(count // 2000):
        ray.get([nothing.remote() for _ in range(2000)])
        time.sleep(0.1)


def service_pid(directory: str) -> int:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read().split("\0")
        except OSError:
            continue
        if directory in words and any("_web.main" in word for word in words):
            return int(pid)
    raise RuntimeError("nobody serves")


def processor_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Reader:
    """Reads a view's stream of events."""

    def __init__(self, url: str, sections: str) -> None:
        host, _, key = url.removeprefix("http://").partition("/#key=")
        self.connection = http.client.HTTPConnection(host, timeout=60)
        path = f"/api/page/events?sections={sections}"
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        self.response = self.connection.getresponse()
        self.socket = self.connection.sock
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            while self.response.readline():
                pass
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            return

    def close(self) -> None:
        import socket

        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()


def rate(seconds: float) -> float:
    began, done = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        ray.get([nothing.remote() for _ in range(1000)])
        done += 1000
    return done / (time.perf_counter() - began)


def cost(url: str, directory: str, turns: int, seconds: float) -> None:
    """What looking takes of others: of their rate, and of a processor."""
    print(f"{'view':10} {'tasks/s alone':>14} {'looked at':>12} {'difference':>11} {'of a processor':>15}")
    for view, sections in VIEWS.items():
        alone, watched, taken = [], [], []
        for turn in range(2 * turns):
            # Alone first in one turn, last in the next.
            if turn % 4 in (0, 3):
                alone.append(rate(seconds))
                continue
            reader = Reader(url, sections)
            pids = [service_pid(directory)]
            before = processor_seconds(pids)
            watched.append(rate(seconds))
            taken.append((processor_seconds(pids) - before) / seconds)
            reader.close()
        a, b = statistics.median(alone), statistics.median(watched)
        print(f"{view:10} {a:14,.0f} {b:12,.0f} {100 * (b / a - 1):10.1f}% {100 * statistics.median(taken):14.1f}%")


def idle(url: str, directory: str, seconds: float) -> None:
    """What the service takes while nobody looks."""
    pid = service_pid(directory)
    before = processor_seconds([pid])
    time.sleep(seconds)
    print(f"while nobody looks: {100 * (processor_seconds([pid]) - before) / seconds:.2f}% of a processor")


def said(first: list[float], full: list[float]) -> str:
    return f"painted after {statistics.median(first):.2f} s, filled after {statistics.median(full):.2f} s"


def paint(url: str, times: int) -> None:
    from playwright.sync_api import sync_playwright

    views = {
        "overview": "#nodes .card",
        "tasks": "[aria-label^='Tasks, the'] tr[data-key] button",
        "timeline": ".legend li",
    }
    with sync_playwright() as tools:
        path = shutil.which("chromium")
        browser = tools.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        for view, there in views.items():
            first, full = [], []
            for turn in range(times):
                context = browser.new_context()
                page = context.new_page()
                if view != "overview":
                    page.goto(url)
                    page.wait_for_selector("main[data-view]")
                began = time.perf_counter()
                page.goto(url if view == "overview" else f"{url.partition('#')[0]}?{turn}#/{view}")
                page.wait_for_selector(there)
                full.append(time.perf_counter() - began)
                paints = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
                first.append((paints or 0) / 1000)
                if turn == 0 and view == "overview":
                    print(f"the first, which starts the service: {said(first, full)}")
                context.close()
            print(f"{view}: {said(first, full)}")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--skip-paint", action="store_true")
    arguments = parser.parse_args()
    context = ray.init(num_cpus=2, include_dashboard=True, dashboard_port=0, logging_level="error")
    directory = context.address_info["session_dir"]
    url = url_of(directory)
    records(arguments.records)
    if not arguments.skip_paint:
        paint(url, 7)
    Reader(url, "jobs").close()
    idle(url, directory, 3)
    cost(url, directory, arguments.turns, arguments.seconds)
    ray.shutdown()


if __name__ == "__main__":
    main()
