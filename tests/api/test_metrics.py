"""Metrics of applications: what is refused, and what is scraped."""

import os
import pickle
import re
import subprocess
import sys
import urllib.request

import pytest
from under_test import NAME, ray, ray_rs_only, wait_until

pytestmark = pytest.mark.usefixtures("cluster")

metrics = __import__(f"{NAME}.util.metrics", fromlist=["metrics"])


def scrape():
    return subprocess.run(
        [sys.executable, "-m", "ray_rs.scripts", "metrics"], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def values(name, text):
    """Value by labels, of one series."""
    found = {}
    for line in text.splitlines():
        if match := re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
            labels.pop("SessionName")
            found[tuple(sorted(labels.items()))] = float(match[2])
    return found


def wait_for(name, wanted):
    wait_until(lambda: values(name, scrape()) == wanted or None, f"{name} to be {wanted}")


def test_what_is_refused():
    with pytest.raises(TypeError):
        metrics.Counter("a", tag_keys=["x"])
    with pytest.raises(TypeError):
        metrics.Counter("a", tag_keys=(1,))
    with pytest.raises(ValueError, match=r"(?i)empty name"):
        metrics.Counter("")
    counter = metrics.Counter("refusing", tag_keys=("x",))
    with pytest.raises(ValueError, match="Missing value for tag key"):
        counter.inc()
    with pytest.raises(ValueError, match=">0"):
        counter.inc(0, tags={"x": "x"})
    with pytest.raises(TypeError):
        counter.inc("1", tags={"x": "1"})
    with pytest.raises(TypeError):
        counter.inc(1, tags={"x": 1})
    with pytest.raises(ValueError, match="tag key"):
        counter.set_default_tags({"y": "1"})
    for boundaries in (None, [], [0, 1], [-1]):
        with pytest.raises(ValueError, match="boundaries"):
            metrics.Histogram("h", boundaries=boundaries)
    with pytest.warns(UserWarning, match="discarded"):
        metrics.Counter("not a name")
    with pytest.warns(FutureWarning):
        metrics.Counter("a:b")


def test_info_and_pickles():
    histogram = metrics.Histogram("h", "about h", boundaries=[1, 2], tag_keys=("x",))
    assert histogram.set_default_tags({"x": "1"}) is histogram
    copy = pickle.loads(pickle.dumps(histogram))
    assert copy.info == histogram.info
    assert copy.info["default_tags"] == {"x": "1"}
    assert metrics.Gauge("g").set(None) is None


@ray_rs_only("asks the command line")
def test_counters_of_all_processes_are_summed_up():
    counter = metrics.Counter("summed", "What is summed.", tag_keys=("k",))

    @ray.remote
    def count(n):
        counter.inc(n, tags={"k": "v"})

    ray.get([count.remote(n) for n in (1, 2, 3)])
    counter.inc(0.5, tags={"k": "v"})
    wait_for("ray_summed_total", {(("k", "v"),): 6.5})


@ray_rs_only("asks the command line")
def test_what_a_killed_process_has_counted_stays_and_its_gauge_goes():
    @ray.remote(max_restarts=0)
    class Counts:
        def count(self):
            metrics.Counter("killed").inc(4)
            metrics.Gauge("level").set(7)
            return os.getpid()

    counts = Counts.remote()
    pid = ray.get(counts.count.remote())
    wait_for("ray_killed_total", {(): 4.0})
    wait_until(lambda: list(values("ray_level", scrape()).values()) == [7.0], "the gauge")
    os.kill(pid, 9)
    wait_until(lambda: values("ray_level", scrape()) == {} or None, "the gauge to go")
    assert values("ray_killed_total", scrape()) == {(): 4.0}


@ray_rs_only("asks the command line")
def test_histograms_are_cumulative():
    histogram = metrics.Histogram("sizes", boundaries=[1, 10])
    for value in (0.5, 1, 5, 100):
        histogram.observe(value)
    wait_for("ray_sizes_bucket", {(("le", "1.0"),): 2.0, (("le", "10.0"),): 3.0, (("le", "+Inf"),): 4.0})
    text = scrape()
    assert values("ray_sizes_sum", text) == {(): 106.5}
    assert values("ray_sizes_count", text) == {(): 4.0}


@ray_rs_only("asks the command line")
def test_the_engine_has_series_of_its_own():
    @ray.remote
    def nothing():
        pass

    ray.get([nothing.remote() for _ in range(3)])
    text = scrape()
    tasks = values("ray_tasks", text)
    assert [n for labels, n in tasks.items() if "nothing" in dict(labels)["Name"]] == [3.0]
    resources = values("ray_resources", text)
    cpus = [n for labels, n in resources.items() if dict(labels)["Name"] == "CPU"]
    assert sum(cpus) == ray.cluster_resources()["CPU"]
    assert values("ray_object_store_memory", text)
    assert text.count("# TYPE ray_tasks gauge") == 1


@ray_rs_only("asks the command line")
def test_they_are_served_on_loopback_when_asked_for():
    command = [sys.executable, "-m", "ray_rs.scripts", "metrics", "--serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().split()[-1]
            assert url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(url, timeout=30) as reply:
                assert b"# TYPE ray_resources gauge" in reply.read()
        finally:
            server.terminate()
