"""The figures of the pages are those that were measured."""

import re

import pages
from under_test import ray_rs_only

pytestmark = ray_rs_only("is about figures of ray_rs's")


def rows(text: str) -> dict[str, list[str]]:
    """Unit, ray_rs, Ray and ratio of each row of a table of benchmarks."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:5] for cells in lines if len(cells) >= 5}


def test_the_table_of_benchmarks():
    page = (pages.DOCS / "performance.md").read_text()
    (source,) = re.findall(r"`(benchmarks/results/[\w-]+\.md)`", page)
    measured = rows((pages.ROOT / source).read_text())
    shown = rows(page.partition("## How to repeat it")[0])
    assert len(shown) > 20
    for name, cells in shown.items():
        assert cells == measured[name], name
    commit = re.search(r"^- commit: (\w+)", (pages.ROOT / source).read_text(), re.M)
    assert commit
    assert f"commit {commit[1]}" in page
