"""Flame graphs out of samples; the samples themselves are tried with real workers in tests/cli."""

import xml.etree.ElementTree as ElementTree

from ray_rs._flame import Frame, _rows_of, stacks_of, svg
from under_test import ray_rs_only

pytestmark = ray_rs_only("is about a tool of ours")

DUMP = """Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/home/me/a b.py", line 7 in <lambda>

Current thread 0x00007f02 (most recent call first):
  File "<string>", line 3 in deep
  File "<string>", line 9 in <module>
  <native>

Thread 0x00007f03 (most recent call first):
  <no Python frame>
"""


def test_stacks_are_read_from_the_outermost_call_on():
    assert stacks_of(DUMP) == [
        ["thread 0x00007f01", "<lambda> (a b.py)", "wait (threading.py)"],
        ["thread 0x00007f02", "<module> (<string>)", "deep (<string>)"],
    ]
    assert stacks_of("") == stacks_of("nonsense\n  File") == []


def test_samples_are_counted_along_each_stack():
    root = Frame("all")
    for stack in (["a", "b"], ["a", "b", "c"], ["a"], ["d"]):
        root.add(stack)
    a = root.calls["a"]
    assert (root.samples, a.samples, a.calls["b"].samples, a.calls["b"].calls["c"].samples) == (4, 3, 2, 1)
    assert root.depth() == 4


def test_rows_stand_after_who_called_them_and_beside_each_other():
    root = Frame("all")
    for stack in (["a", "c"], ["a", "b"], ["a", "b", "d"], ["e"]):
        root.add(stack)
    told = [(0, 0, 4, "all"), (1, 0, 3, "a"), (2, 0, 2, "b"), (3, 0, 1, "d"), (2, 2, 1, "c"), (1, 3, 1, "e")]
    assert _rows_of(root) == told


def test_the_picture_is_as_wide_as_the_shares():
    root = Frame("all")
    for _ in range(3):
        root.add(["often <&>"])
    root.add(["seldom"])
    picture = ElementTree.fromstring(svg(root, "A title & more"))
    space = "{http://www.w3.org/2000/svg}"
    widths = {}
    for group in picture.iter(f"{space}g"):
        name = group.find(f"{space}title").text.partition(": ")[0]
        rect = group.find(f"{space}rect")
        widths[name] = (float(rect.get("x")), float(rect.get("width")), float(rect.get("y")))
    assert widths["often <&>"][1] == 3 * widths["seldom"][1]
    assert abs(widths["all"][1] - widths["often <&>"][1] - widths["seldom"][1]) < 0.1
    assert abs(widths["seldom"][0] - (widths["often <&>"][0] + widths["often <&>"][1])) < 0.1
    # What is called stands above who calls it.
    assert widths["often <&>"][2] < widths["all"][2]
    assert "75.0%, 3 samples" in svg(root, "x")


def test_a_picture_of_nothing():
    assert ElementTree.fromstring(svg(Frame("none"), "nothing")) is not None
