"""What is in deploy/ speaks of options, values and versions that there are. Linters read it in test_deploy_linters."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray_rs import scripts
from ray_rs.scripts._completion import commands_of
from under_test import ray_rs_only

pytestmark = ray_rs_only("is about files of ours")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/ray-rs"
TEMPLATES = sorted((CHART / "templates").iterdir())


def values():
    return yaml.safe_load((CHART / "values.yaml").read_text())


def leaves(tree, path=()):
    """Paths of all values that are no further mapping."""
    for name, value in tree.items():
        if isinstance(value, dict) and value and name not in ("resources",):
            yield from leaves(value, (*path, name))
        else:
            yield ".".join((*path, name))


def version():
    return re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


def test_versions_agree():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version()
    assert f"ARG VERSION={version()}\n" in (ROOT / "deploy/Dockerfile").read_text()
    assert f'\nversion = "{version()}"\n' in (ROOT / "Cargo.toml").read_text()
    assert f'\n__version__ = "{version()}"\n' in (ROOT / "python/ray_rs/__init__.py").read_text()


def test_values_fit_their_schema_and_wrong_ones_do_not():
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values(), schema)
    for wrong in (
        {"workers": {"replicas": -1}},
        {"workers": {"replica": 1}},
        {"head": {"web": {"port": 0}}},
        {"tls": "yes"},
        {"image": {"tag": "1"}},
        {"token": {"value": "secret"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_templates_use_the_values_that_there_are_and_all_of_them():
    text = "".join(path.read_text() for path in TEMPLATES)
    used = set(re.findall(r"\.Values\.([\w.]+)", text))
    known = set(leaves(values()))
    assert used <= known, used - known
    assert known <= used, known - used
    defined = set(re.findall(r'define "([^"]+)"', text))
    assert set(re.findall(r'include "([^"]+)"', text)) == defined


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_closed(path):
    text = path.read_text()
    assert "{{" not in re.sub(r"{{.*?}}", "", text, flags=re.DOTALL)
    depth = 0
    for word in re.findall(r"{{-?\s*(if|with|range|define|end|else)\b", text):
        depth += {"end": -1, "else": 0}.get(word, 1)
        # One line has its own `if ... else ... end`.
        assert depth >= 0
    assert depth == 0


def started():
    """Words after `ray_rs start` in all that starts nodes, by file."""
    for path in [*TEMPLATES, *sorted((ROOT / "deploy/kubernetes").glob("*.yaml")), ROOT / "deploy/Dockerfile"]:
        text = path.read_text()
        if "start" in text and "ray_rs" in text:
            yield pytest.param(re.findall(r"(?:^|[\s\[\"])(--[a-z][a-z-]*)", text, re.MULTILINE), id=path.name)


@pytest.mark.parametrize("words", list(started()))
def test_options_of_start_are_its_own(words):
    (start,) = [command for command in commands_of(scripts.parser()) if command.path == ("start",)]
    known = {name for option in start.options for name in option.names}
    # Of kubectl, pip, useradd and docker.
    others = {"--ignore-not-found", "--wait", "--no-cache-dir", "--find-links", "--create-home", "--uid", "--shm-size"}
    assert set(words) - others <= known, set(words) - others - known


@pytest.mark.parametrize("path", sorted(ROOT.glob("deploy/**/*.yaml")), ids=lambda path: path.name)
def test_what_is_plain_yaml_can_be_read(path):
    if path.parent.name != "templates":
        assert [document for document in yaml.safe_load_all(path.read_text()) if document]


def test_images_run_as_somebody_else_than_root():
    for path in (ROOT / "deploy").rglob("Dockerfile"):
        users = re.findall(r"^USER (\S+)$", path.read_text(), re.MULTILINE)
        assert users == ["1000"], path
