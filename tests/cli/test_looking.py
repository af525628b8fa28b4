"""Commands that look closely: `stack`, `top`, `doctor`, `dashboard`; and the report of a part of a program."""

import html.parser
import json
import os
import re
import signal

import pytest
from heads import command as run
from under_test import ray, ray_rs_only, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("ray_rs has its own program")]


@ray.remote
class Sleeper:
    def process(self):
        return os.getpid()

    def sleeps(self, path):
        import time

        open(path, "w").close()
        time.sleep(1000)


@pytest.fixture
def sleeper(tmp_path):
    made = Sleeper.remote()
    pid = ray.get(made.process.remote())
    made.sleeps.remote(f"{tmp_path}/on")
    wait_until((tmp_path / "on").exists, "the method to run")
    yield pid
    ray.kill(made)


def test_stack(sleeper):
    text = run("stack", str(sleeper))
    assert text.startswith(f"== {sleeper}: actor Sleeper, runs ")
    assert "in sleeps" in text
    rows = json.loads(run("stack", "--format=json"))
    assert "in sleeps" in {row["pid"]: row["stack"] for row in rows}[sleeper]
    assert "no worker with pid 1." in run("stack", "1", status=1)
    assert "no worker with pid" in run("stack", str(os.getpid()), status=1)
    os.kill(sleeper, signal.SIGSTOP)
    try:
        assert "did not answer within" in run("stack", str(sleeper), status=1)
    finally:
        os.kill(sleeper, signal.SIGCONT)


def test_a_flame_graph(sleeper, tmp_path):
    path = str(tmp_path / "out.svg")
    text = run("stack", str(sleeper), "--flame", path, "--seconds", "0.2")
    (samples,) = re.findall(rf"^Flame graph of (\d+) samples written to {re.escape(path)}\.$", text.strip())
    picture = (tmp_path / "out.svg").read_text()
    # Its only thread that runs anything of Python's, in all the samples of it.
    (seen,) = re.findall(r">sleeps \(\S+\.py\): [\d.]+%, (\d+) samples<", picture)
    assert 1 <= int(seen) <= int(samples)
    told = json.loads(run("stack", str(sleeper), "--flame", path, "--seconds", "0.1", "--format", "json"))
    assert told["path"] == path and told["samples"] >= 1
    assert "of one process" in run("stack", "--flame", path, status=1)
    assert "--seconds must be" in run("stack", str(sleeper), "--flame", path, "--seconds", "0", status=1)
    assert "no worker with pid 1" in run("stack", "1", "--flame", path, status=1)


def test_top(sleeper):
    text = run("top", "-n", "2", "-d", "0.1")
    pictures = text.split("ENDED/S")
    assert len(pictures) == 3
    (line,) = [line for line in pictures[-1].splitlines() if line.endswith("sleeps")]
    assert line.split()[1] == "1"
    assert re.search(r"CPU \d+ of 2", text)
    assert "--delay must be" in run("top", "-d", "0", status=1)


def test_doctor(cluster):
    text = run("doctor")
    for what in ("engine", "open files", "/dev/shm", "memory", "control store", "nodes", "processes", "object store"):
        assert f"{what}: " in text, what

    @ray.remote(num_cpus=64)
    def too_large():
        return None

    waiting = too_large.remote()

    (row,) = [row for row in json.loads(run("doctor", "--format=json", status=1)) if row["what"] == "demand"]
    assert (row["level"], row["found"]) == ("wrong", "task too_large can never run")
    assert "{CPU: 62} is missing" in row["advice"]
    ray.cancel(waiting)


def test_doctor_without_a_session(tmp_path):
    text = run("doctor", RAY_RS_TMPDIR=str(tmp_path))
    assert "session: Could not find any running Ray instance" in text
    assert "session: Could not find" in run("doctor", "--address=127.0.0.1:1", status=1, RAY_RS_TMPDIR=str(tmp_path))


def test_dashboard_where_there_is_none():
    assert "The session has no web service" in run("dashboard", status=1)


class Parsed(html.parser.HTMLParser):
    """Tags that are open, cells of tables, and whatever a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.loads = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "rect"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.loads += [value for name, value in attributes if name in ("src", "href")] + [tag] * (tag == "script")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_a_report_of_a_part_of_a_program(tmp_path):
    @ray.remote(max_retries=0)
    def counted(number):
        if number == 3:
            raise ValueError("the third")

    @ray.remote
    def before():
        return None

    ray.get(before.remote())
    with ray.performance_report(tmp_path / "report.html"):
        named = counted.options(name="<script>alert(1)</script> & more")
        ray.wait([*[counted.remote(number) for number in range(20)], named.remote(0)], num_returns=21)
    text = (tmp_path / "report.html").read_text()
    seen = Parsed(text)
    assert (seen.open, seen.loads) == ([], [])
    rows = {row[0].rpartition(".")[2]: row[1:3] for row in seen.rows[1:]}
    assert rows == {"counted": ["20", "1"], "<script>alert(1)</script> & more": ["1", "0"]}
    assert "<rect" in text
    with pytest.raises(ZeroDivisionError), ray.performance_report(str(tmp_path / "empty.html")):
        _ = 1 / 0
    text = (tmp_path / "empty.html").read_text()
    assert "No task ended." in text
    assert "ZeroDivisionError" in text
    with pytest.raises(FileNotFoundError), ray.performance_report(tmp_path / "absent" / "report.html"):
        pytest.fail("it is told before anything runs")
