"""The text that Prometheus reads, through a strict parser; the page and the dashboard that name what is in it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray_rs.util import metrics
from under_test import ray, ray_rs_only, run_command, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("the text is that of our own program")]

ROOT = Path(__file__).parents[2]


def families():
    """Families by name, once the whole text was read; every series in it is there once."""
    text = run_command("metrics").stdout
    heads = re.findall(r"^# (HELP|TYPE) (\S+)", text, re.MULTILINE)
    assert len(set(heads)) == len(heads)
    found = {}
    series = set()
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert {("HELP", name), ("TYPE", name)} <= set(heads), name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in series, key
            series.add(key)
            assert sample.labels["SessionName"].startswith("session_")
        found[name] = family
    return found


def wait_for(*names):
    return wait_until(lambda: (found := families()) and set(names) <= set(found) and found, f"{names} to be there")


@pytest.fixture(scope="module")
def all_of_them(cluster):
    """A session in which there is something of each kind."""

    @ray.remote
    def task(value):
        return value.nbytes

    @ray.remote(num_cpus=0)
    class Actor:
        def here(self):
            return 1

    group = ray.util.placement_group([{"CPU": 1}])
    assert group.wait(30)
    actor = Actor.remote()
    ray.get([task.remote(ray.put(numpy.zeros(200_000))), actor.here.remote()])
    yield
    ray.util.remove_placement_group(group)


def documented():
    rows = re.findall(r"^\| `(ray_\w+)` \| (\w+) \|([^|]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_the_page_lists_what_there_is(all_of_them):
    told = {
        name: (family.type, {label for sample in family.samples for label in sample.labels} - {"SessionName"})
        for name, family in families().items()
    }
    assert told == documented()


def test_the_dashboard_asks_for_what_there_is():
    dashboard = json.loads((ROOT / "deploy/grafana/ray_rs.json").read_text())
    known = documented()
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {name for query in queries for name in re.findall(r"ray_\w+", query)} == set(known) - {
        "ray_spill_manager_objects"
    }
    for query in queries:
        (name,) = re.findall(r"ray_\w+", query)
        labels = set(re.findall(r"(\w+)=~?\"", query)) | set(re.findall(r"by \((\w+)\)", query))
        assert labels <= known[name][1] | {"SessionName"}, query
        assert query.count("(") == query.count(")"), query
        assert ("rate(" in query or "increase(" in query) == ("[$__rate_interval]" in query), query
    shown = [re.findall(r"{{(\w+)}}", t["legendFormat"]) for p in dashboard["panels"] for t in p["targets"]]
    assert all(f"by ({name})" in query for names, query in zip(shown, queries, strict=True) for name in names)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    (variable,) = [each for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert variable["definition"] == "label_values(ray_resources, SessionName)"


def test_nothing_an_application_calls_its_own_makes_it_unreadable():
    metrics.Gauge("tasks", "Called as the engine's own.").set(3)
    metrics.Gauge("odd", tag_keys=("my-key", "my key", "1st", "é", "SessionName", "WorkerId", "__name__")).set(
        1, {"my-key": "a", "my key": "b", "1st": "c", "é": "d", "SessionName": "e", "WorkerId": "f", "__name__": "g"}
    )
    metrics.Histogram("size", boundaries=[1], tag_keys=("le",)).observe(0.5, {"le": "mine"})
    metrics.Gauge("size_count").set(4)
    metrics.Counter("both").inc(5)
    metrics.Gauge("both_total").set(6)
    metrics.Gauge("text", 'Lines\nwith "quotes" \\ and é', tag_keys=("k",)).set(7, {"k": 'a"b\\c\nd'})
    for value, tag in ((float("nan"), "nan"), (float("-inf"), "inf"), (1e300, "large"), (2.0**60, "whole")):
        metrics.Gauge("number", tag_keys=("k",)).set(value, {"k": tag})
    found = wait_for(
        "ray_tasks_gauge", "ray_odd", "ray_size", "ray_size_count_gauge", "ray_both_total", "ray_both_gauge",
        "ray_text", "ray_number",
    )  # fmt: skip
    own = {"SessionName", "WorkerId"}
    (odd,) = found["ray_odd"].samples
    assert {name: value for name, value in odd.labels.items() if name not in own} == {
        "my_key_": "a", "my_key": "b", "_1st": "c", "_": "d", "exported_SessionName": "e", "exported_WorkerId": "f",
        "exported___name__": "g",
    }  # fmt: skip
    assert odd.labels["SessionName"].startswith("session_")
    (text,) = found["ray_text"].samples
    assert text.labels["k"] == 'a"b\\c\nd'
    assert found["ray_text"].documentation == 'Lines\nwith "quotes" \\ and é'
    buckets = [sample for sample in found["ray_size"].samples if sample.name == "ray_size_bucket"]
    assert [(sample.labels["le"], sample.labels["exported_le"], sample.value) for sample in buckets] == [
        ("1.0", "mine", 1.0),
        ("+Inf", "mine", 1.0),
    ]
    numbers = {sample.labels["k"]: sample.value for sample in found["ray_number"].samples}
    assert numbers["inf"] == float("-inf") and numbers["large"] == 1e300 and numbers["whole"] == 2.0**60
    assert numbers["nan"] != numbers["nan"]


def test_prometheus_own_checker_has_nothing_to_say(all_of_them):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=run_command("metrics").stdout, capture_output=True, text=True, timeout=30
    )
    # Ray's labels have such names. What it says of metrics of applications is their business.
    camels = "label names should be written in 'snake_case' not 'camelCase'"
    about = [line for line in done.stderr.splitlines() if not line.endswith(camels) and line.split()[0] in documented()]
    assert about == []
    assert done.returncode in (0, 3) and "parsing error" not in done.stderr, done.stderr
