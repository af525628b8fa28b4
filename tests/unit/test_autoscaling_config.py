"""Configurations of autoscalers, read and looked over. Needs no cluster."""

import importlib.util
import json

import pytest
from under_test import NAME

if NAME != "ray_rs":
    pytest.skip("is about ray_rs's own configuration", allow_module_level=True)

from ray_rs import _autoscaling

GOOD = {"available_node_types": {"w": {"resources": {"CPU": 1}}}, "provider": {"type": "local"}}
COMMAND = {"type": "command", "start_command": "start {instance}"}


def test_defaults():
    assert _autoscaling.checked(GOOD) == {
        "max_workers": 2,
        "idle_timeout_s": 300,
        "start_timeout_s": 600,
        "upscaling_speed": 1.0,
        "types": [{"name": "w", "resources": {"CPU": 1.0}, "labels": {}, "min_workers": 0, "max_workers": 2}],
        "provider": {"type": "local"},
    }


def test_commands_and_the_heads_own_type():
    config = _autoscaling.checked(
        {
            "cluster_name": "mine",
            "head_node_type": "head",
            "setup_commands": [],
            "available_node_types": {
                "head": {"resources": {}},
                "w": {"resources": {"GPU": 1}, "node_config": {"a": 1}},
            },
            "provider": {**COMMAND, "end_command": ["end", "{instance}"], "start_timeout_minutes": 0.5},
        }
    )
    assert [each["name"] for each in config["types"]] == ["w"]
    assert config["start_timeout_s"] == 30
    assert config["provider"] == {
        "type": "command",
        "start_command": {"shell": "start {instance}"},
        "end_command": {"words": ["end", "{instance}"]},
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ([], "must be a mapping"),
        ({"max_workers": 1.5}, "max_workers: must be a whole number"),
        ({"max_workers": True}, "max_workers: must be a whole number"),
        ({"idle_timeout_minutes": -1}, "idle_timeout_minutes: must be a number that is not negative"),
        ({"idle_timeout_minutes": float("nan")}, "idle_timeout_minutes: must be"),
        ({"upscaling_speed": "fast"}, "upscaling_speed: must be"),
        ({"idle_time": 1}, "idle_time: is not known; what is known there: available_node_types"),
        ({"setup_commands": ["apt"]}, "setup_commands: has no meaning here"),
        ({"available_node_types": {}}, "available_node_types: there is none"),
        ({"head_node_type": "x"}, "head_node_type: 'x' is none of available_node_types"),
        ({"available_node_types": {"w": 1}}, "available_node_types.w: must be a mapping"),
        ({"available_node_types": {"w": {}}}, "available_node_types.w.resources: must say"),
        ({"available_node_types": {"w": {"resources": {"CPU": 0.5}}}}, "available_node_types.w.resources.CPU: must be"),
        ({"available_node_types": {"w": {"resource": {}}}}, "available_node_types.w.resource: is not known"),
        (
            {"available_node_types": {"w": {"resources": {"CPU": 1}, "labels": {"a": "b c"}}}},
            "available_node_types.w.labels.a: must be a text without",
        ),
        (
            {"available_node_types": {"w": {"resources": {"CPU": 1}, "min_workers": 3}}},
            "available_node_types.w.min_workers: is 3, more than max_workers, which is 2",
        ),
        ({"provider": None}, "provider: is missing"),
        ({"provider": {"type": "gcp"}}, "provider.type: must be 'local' or 'command', not 'gcp'"),
        ({"provider": {"type": "local", "region": "x"}}, "provider.region: is not known"),
        ({"provider": {"type": "command"}}, "provider.start_command: is missing"),
        ({"provider": {**COMMAND, "start_command": []}}, "provider.start_command: must be a command"),
        ({"provider": {**COMMAND, "end_command": 3}}, "provider.end_command: must be a command"),
        ({"provider": {**COMMAND, "start_timeout_minutes": 0}}, "provider.start_timeout_minutes: must be more than 0"),
    ],
)
def test_what_makes_no_sense_is_named(change, text):
    config = {**GOOD, **change} if isinstance(change, dict) else change
    with pytest.raises(_autoscaling.ConfigError) as raised:
        _autoscaling.checked(config)
    assert str(raised.value).startswith(text)


def test_files(tmp_path):
    path = tmp_path / "cluster.json"
    with pytest.raises(_autoscaling.ConfigError, match="cannot read"):
        _autoscaling.read(str(path))
    path.write_text(json.dumps(GOOD))
    assert _autoscaling.read(str(path)) == _autoscaling.checked(GOOD)
    yaml = "available_node_types:\n  w:\n    resources: {CPU: 1}\nprovider:\n  type: local\n"
    path.write_text(yaml)
    if importlib.util.find_spec("yaml"):
        assert _autoscaling.read(str(path)) == _autoscaling.checked(GOOD)
    else:
        with pytest.raises(_autoscaling.ConfigError, match="pip install pyyaml"):
            _autoscaling.read(str(path))


def test_the_examples_of_deploy_make_sense():
    from pathlib import Path

    root = Path(__file__).parents[2] / "deploy"
    cluster = (root / "kubernetes/cluster.yaml").read_text()
    inner = cluster.partition("autoscaling.json: |\n")[2].partition("  worker.yaml: |")[0]
    config = _autoscaling.checked(json.loads(inner))
    assert config["provider"]["type"] == "command"
    if importlib.util.find_spec("yaml"):
        assert _autoscaling.read(str(root / "slurm/autoscaling.yaml"))["provider"]["type"] == "command"


def test_an_autoscaling_cluster_has_as_many_nodes_as_its_types():
    config = _autoscaling.of_cluster(
        {"a": {"resources": {"CPU": 1}, "max_workers": 2}, "b": {"resources": {"CPU": 1}, "max_workers": 3}},
        {"idle_timeout_minutes": 0.1},
    )
    assert config["max_workers"] == 5 and config["idle_timeout_s"] == 6
