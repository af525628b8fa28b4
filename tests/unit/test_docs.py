"""The documents say what the code says: lists of states, messages, variables and constants, and paths that exist.

Needs no cluster and nothing built; it reads the sources.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
STATES = sorted((DOCS / "states").glob("*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "rust/README.md", ROOT / "benchmarks/README.md"])


def read(path):
    return (ROOT / path).read_text()


def rows(text):
    """The first cells of all rows of the first table in a text."""
    cells = []
    for line in text.splitlines():
        if line.startswith("|"):
            cells.append(line.split("|")[1].strip())
        elif cells:
            break
    return cells[2:]


def names(cells):
    """What stands in backticks in each of the cells, in order."""
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def without_tests(rust):
    return rust.partition("#[cfg(test)]\nmod tests {")[0]


def variants(path, enum):
    """The variants of a Rust enum, in order."""
    body = re.search(rf"enum {enum}(?:<\w+>)? \{{\n(.*?)\n\}}", read(path), re.S)
    assert body, f"there is no enum {enum} in {path}"
    return re.findall(r"^    (\w+)", body[1], re.M)


def proto_block(path, kind, name):
    body = re.search(rf"{kind} {name} \{{\n(.*?)\n\}}", read(path), re.S)
    assert body, f"there is no {kind} {name} in {path}"
    return body[1]


# ---------------------------------------------------------------------------------------------------------- all pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_exist(page):
    text = page.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    missing = []
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        if "://" not in target and not (page.parent / target).exists():
            missing.append(target)
    for path in re.findall(r"`((?:rust|python|tests|proto|docs|tools|examples|benchmarks)/[\w./*-]*\w)`", prose):
        # What a run makes is not there before it.
        if not list(ROOT.glob(path)) and path != "benchmarks/results":
            missing.append(path)
    assert missing == []


# ------------------------------------------------------------------------------------------------------------- states


def described_enums():
    """Each "`Enum` in `file`" of a page of states, with the text below it."""
    for page in STATES:
        text = page.read_text()
        for found in re.finditer(r"^`(\w+)` in `(rust/[^`]+)`", text, re.M):
            yield pytest.param(found[1], found[2], text[found.end() :], id=f"{page.stem}-{found[1]}")


@pytest.mark.parametrize(("enum", "path", "text"), list(described_enums()))
def test_each_state_is_described(enum, path, text):
    assert names(rows(text)) == variants(path, enum)


def test_every_kind_of_state_has_its_table():
    described = {param.values[0:2] for param in described_enums()}
    assert described == {
        ("TaskState", "rust/ownership/src/task.rs"),
        ("TaskPlace", "rust/dispatch/src/queue.rs"),
        ("TaskStatus", "rust/core_worker/src/model.rs"),
        ("LeaseState", "rust/dispatch/src/lease.rs"),
        ("WorkerState", "rust/scheduler/src/scheduler.rs"),
        ("State", "rust/actors/src/lifecycle/table.rs"),
        ("Phase", "rust/actors/src/lifecycle/words.rs"),
        ("Connection", "rust/actors/src/call_order.rs"),
        ("CallPlace", "rust/actors/src/call_order.rs"),
        ("State", "rust/ownership/src/entry.rs"),
        ("State", "rust/object_store/src/spill/table.rs"),
        ("Phase", "rust/scheduler/src/placement_group/table.rs"),
        ("GroupState", "rust/scheduler/src/placement_group/words.rs"),
    }


def test_states_of_a_block():
    text = (DOCS / "states/object.md").read_text().partition("## In the arena")[2]
    constants = re.findall(r"const (\w+): u32 = 0x00f2_", read("rust/object_store/src/segment/protocol.rs"))
    assert names(rows(text)) == constants


# ----------------------------------------------------------------------------------------------------------- protocol


def section(title):
    return read("docs/protocol.md").partition(title)[2]


def test_kinds_of_lane_messages():
    kinds = re.findall(r"^    (\w+) = (\d+),$", read("rust/proto/src/lane.rs"), re.M)
    table = re.findall(r"^\| `(\w+)` \| (\d+) \|", read("docs/protocol.md"), re.M)
    assert table == kinds


@pytest.mark.parametrize("message", ["ToRaylet", "FromRaylet"])
def test_frames_of_the_raylet(message):
    bodies = re.findall(r"^    (\w+) \w+ = \d+;", proto_block("proto/ray_rs/v1/raylet.proto", "message", message), re.M)
    assert sorted(names(rows(section(f"(`{message}`):")))) == sorted(bodies)


def test_calls_of_the_control_store():
    calls = re.findall(r"rpc (\w+)", proto_block("proto/ray_rs/v1/gcs.proto", "service", "Gcs"))
    assert sorted(names(rows(section("Service `ray_rs.v1.Gcs`:")))) == sorted(calls)


# ------------------------------------------------------------------------------------------------------ configuration


def variables_in_code():
    found = set()
    for path in (ROOT / "python").rglob("*.py"):
        text = path.read_text()
        found |= set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", text))
        found |= set(re.findall(r"\"((?:RAY|RAY_RS)_[A-Z_]+)\" (?:not )?in os\.environ", text))
        found |= set(re.findall(r"VARIABLE(?:: Final)? = \"(\w+)\"", text))
    for path in (ROOT / "rust").glob("*/src/**/*.rs"):
        text = without_tests(path.read_text())
        # Constants hold their names, or they are named where they are read.
        found |= set(re.findall(r": &str = \"(RAY_\w+)\"", text))
        found |= set(re.findall(r"var(?:_os)?\(\"(\w+)\"\)", text))
        for group in re.findall(r"VARIABLES: \[&str; \d+\] = \[([^\]]*)\]", text):
            found |= set(re.findall(r"\"(\w+)\"", group))
    return found


def test_environment_variables():
    text = read("docs/config.md").partition("## Environment variables")[2]
    for_users, _, rest = text.partition("Set by the engine")
    assert set(names(rows(for_users))) | set(names(rows(rest))) == variables_in_code()


def test_variables_of_the_tests():
    text = read("docs/config.md").partition("## For those who test")[2]
    sources = "".join(path.read_text() for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
    assert [name for name in names(rows(text)) if name.isupper() and f'"{name}"' not in sources] == []


def test_constants():
    text = read("docs/config.md").partition("## `_system_config`")[2]
    source = read("rust/types/src/config.rs")
    assert names(rows(text)) == re.findall(r"^pub const (\w+):", source, re.M)
    values = {
        f"from_{unit}({number})": f"{number} {sign}"
        for number in ("1", "2", "10", "25", "50", "64", "200")
        for unit, sign in (("micros", "µs"), ("millis", "ms"), ("secs", "s"))
    }
    for name, value in re.findall(r"^pub const (\w+): \w+ = (?:Duration::)?([^;]+);", source, re.M):
        shown = values.get(value, value).replace(" * 1024", " KiB")
        assert f"| `{name}` | {shown} |" in text, (name, shown)


# --------------------------------------------------------------------------------------------------------- the project


def test_every_crate_is_described():
    crates = {path.parent.name for path in ROOT.glob("rust/*/Cargo.toml")}
    assert set(names(rows(read("rust/README.md")))) == crates
    assert crates <= set(re.findall(r"`(\w+)`", read("ARCHITECTURE.md")))


def test_every_example_is_described():
    examples = {path.name for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert set(re.findall(r"\]\(examples/([\w.]+)\)", read("README.md"))) == examples


def test_chores_exist():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", read(page), re.M)) <= targets, page
