"""Progress bars, in the driver and from workers."""

import io
import os
import pty
import subprocess
import sys

import pytest
from under_test import ray_rs_only, run_driver

pytestmark = ray_rs_only("what is drawn is ray_rs's own")


def test_of_a_loop_in_the_driver():
    done = run_driver(
        """
        from ray_rs.experimental.tqdm_ray import tqdm
        print([x for x in tqdm(range(3), desc="three")])
        bar = tqdm(desc="by hand", total=10, unit="row")
        bar.update(4)
        bar.update()
        print(bar.n, bar.total)
        bar.close()
        bar.update()
        with tqdm(total=2) as bar:
            bar.set_description("renamed")
            bar.update(2)
        """
    )
    assert done.stdout.splitlines() == ["[0, 1, 2]", "5 10"]
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("three  100 %")
    assert " 3/3 " in lines[0]
    assert lines[1].startswith("by hand   50 %")
    assert lines[2].startswith("renamed  100 %")


def test_from_workers_among_what_they_print():
    done = run_driver(
        """
        from ray_rs.experimental.tqdm_ray import tqdm

        @ray.remote
        def work():
            for x in tqdm(range(4), desc="rows"):
                print("row", x)

        ray.init(num_cpus=1)
        ray.get(work.remote())
        """
    )
    assert [line.split(") ")[1] for line in done.stdout.splitlines()] == [f"row {x}" for x in range(4)]
    bars = [line for line in done.stderr.splitlines() if "rows" in line]
    assert bars[-1].startswith("(work pid=")
    assert " 4/4 " in bars[-1]
    assert "progress::" not in done.stdout + done.stderr


def test_of_the_loops_over_tasks():
    done = run_driver(
        """
        @ray.remote
        def one(x):
            return 1

        ray.init(num_cpus=1)
        print(sum(ray.as_completed([one.remote(x) for x in range(5)], progress=True)))
        print(sum(ray.map(one, range(7), progress=True)))
        """
    )
    assert done.stdout.splitlines() == ["5", "7"]
    assert " 5/5 " in done.stderr
    assert " 7/7 " in done.stderr


def test_without_the_length():
    done = run_driver(
        """
        from ray_rs.experimental.tqdm_ray import tqdm
        for x in tqdm(iter(range(3)), unit="item"):
            pass
        """
    )
    assert done.stderr.startswith("3 item")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def display(monkeypatch):
    from ray_rs import _logs, _progress

    monkeypatch.setattr(_logs, "_bars", None)
    monkeypatch.setattr(_progress, "_columns", lambda: 80)
    return _progress.Display()


def state(n, total=4, desc="", pos=0, closed=False):
    return {"desc": desc, "n": n, "total": total, "unit": "it", "pos": pos, "closed": closed}


def test_bars_stay_below_what_is_printed(display, monkeypatch):
    from ray_rs import _logs

    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    display.report("a", state(1, desc="first"))
    display._drawn_at = 0
    display.report("b", state(2, desc="second", pos=1))
    assert stream.getvalue().count("\n") == 1  # between the two lines
    before = len(stream.getvalue())
    _logs._write(stream, "a line\n")
    written = stream.getvalue()[before:]
    # First the bars are wiped out, both of their lines; then comes the text; then they are drawn again.
    assert written.startswith("\r\033[K\033[1A\033[2Ka line\nfirst")
    assert "second" in written
    display.report("a", state(4, desc="first", closed=True))
    display.report("b", state(4, desc="second", pos=1, closed=True))
    ends = stream.getvalue()
    assert ends.endswith("\n")
    assert "100 %" in ends
    assert display._lines_shown == 0


def test_a_line_that_only_looks_like_a_report():
    from ray_rs import _logs, _progress

    odd = _logs.PROGRESS_MARK + "nonsense"
    assert _progress.take("f", 1, ["before", odd, "after"]) == ["before", odd, "after"]


def test_on_a_real_terminal(tmp_path):
    (tmp_path / "p.py").write_text(
        "from ray_rs.experimental.tqdm_ray import safe_print, tqdm\n"
        "for x in tqdm(range(3), desc='bar'):\n"
        "    safe_print('item', x)\n"
    )
    controller, terminal_end = pty.openpty()
    with subprocess.Popen([sys.executable, "p.py"], cwd=tmp_path, stdout=terminal_end, stderr=terminal_end) as process:
        process.wait(timeout=30)
    os.close(terminal_end)
    shown = b""
    try:
        while piece := os.read(controller, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(controller)
    text = shown.decode()
    assert text.count("item") == 3
    assert text.rstrip().rpartition("\033[K")[2].startswith("bar  100 %")
