"""The page by error message has every exception, and quotes messages as the sources have them."""

import re

import pages
import pytest
from under_test import exceptions, ray_rs_only

pytestmark = ray_rs_only("is about a page of ray_rs's")

PAGE = (pages.DOCS / "troubleshooting.md").read_text()


def sources() -> str:
    """All code, with string literals that go on over lines put together."""
    python = "".join(path.read_text() for path in (pages.ROOT / "python").rglob("*.py"))
    rust = "".join(path.read_text() for path in (pages.ROOT / "rust").glob("*/src/**/*.rs"))
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", python) + re.sub(r"\\\n\s*", "", rust)


def test_every_exception_is_there():
    described = set(re.findall(r"^### (\w+)$", PAGE, re.M))
    rare = re.findall(r"`(\w+)`", PAGE.partition("### Names for imports")[2].partition("\n## ")[0])
    assert not described & set(rare)
    assert described | set(rare) == set(exceptions.__all__) - {"RAY_EXCEPTION_TYPES"}


def test_messages_are_those_of_the_sources():
    code = sources()
    # numpy's own.
    known = {"assignment destination is read-only"}
    quoted = re.findall(r"^\| `([^`]+)` \|", PAGE.partition("\n## Messages")[2], re.M)
    assert len(quoted) > 15
    for message in quoted:
        for part in message.split("..."):
            assert part.strip() in code or part in known, message


@pytest.mark.parametrize("name", re.findall(r"^### (\w+)$", PAGE, re.M))
def test_advice_follows_each(name):
    text = PAGE.partition(f"\n### {name}\n")[2].partition("\n#")[0]
    assert len(text.strip()) > 40, name
