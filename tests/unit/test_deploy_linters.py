"""What is in deploy/ passes the linters of its kinds: hadolint, and Helm's own, which also draws the chart up."""

import base64
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray_rs import scripts
from under_test import ray_rs_only

pytestmark = ray_rs_only("is about files of ours")

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/ray-rs"
HADOLINT = Path(sys.executable).parent / "hadolint"

# What a user may say, and what comes of it is looked at.
VALUES = {
    "default": {},
    "plain": {"tls": False, "token": {"value": "ab" * 32}, "head": {"web": {"enabled": False}}},
    "all": {
        "image": {"repository": "registry.example/ray", "tag": "9", "pullSecrets": [{"name": "pull"}]},
        "token": {"existingSecret": "mine"},
        "head": {"numCpus": 4, "web": {"hosts": ["ray.example"]}},
        "workers": {"replicas": 0, "labels": {"zone": "a", "kind": "b"}},
        "extraEnv": [{"name": "A", "value": "1"}],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"note": "yes"},
    },
}


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    if not HADOLINT.exists():
        pytest.skip("hadolint is not installed")
    return subprocess.run([HADOLINT, "--no-color", path], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("Dockerfile")), ids=lambda path: path.parent.name)
def test_hadolint_finds_nothing(path, tmp_path):
    found = hadolint(path)
    assert (found.stdout + found.stderr, found.returncode) == ("", 0)
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(path.read_text() + "RUN cd /tmp && sudo true\n")
    assert "DL3004" in hadolint(wrong).stdout


@pytest.fixture
def helm():
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("Helm is not installed")
    import helm_python

    return helm_python


def drawn_up(helm, values) -> dict[str, dict]:
    """The objects that the chart makes, by kind and name."""
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(values, name="demo", namespace="there")
    objects = [
        each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text) if each
    ]
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in objects}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_nothing(helm, values):
    # An icon is for catalogues of charts.
    found = helm.lint(CHART, values, strict=True)
    assert found["total_charts_linted"] == 1
    assert [each for each in found["messages"] if each["error"] != "icon is recommended"] == found["errors"] == []


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_nodes_of_the_chart_start_as_the_command_line_has_it(helm, values):
    objects = drawn_up(helm, values)
    controllers = [each["spec"] for each in objects.values() if each["kind"] in ("StatefulSet", "Deployment")]
    pods = [each["template"]["spec"] for each in controllers]
    assert len(pods) == 2
    for pod in pods:
        (container,) = pod["containers"]
        words = [*container["command"], *container["args"]]
        assert words[:2] == ["ray_rs", "start"]
        known = scripts.parser().parse_args([word.replace("$(POD_IP)", "10.0.0.1") for word in words[1:]])
        assert known.host == "10.0.0.1" and known.block
        # What is mounted is there.
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
        names = [each["name"] for each in container["env"]]
        assert len(set(names)) == len(names)
        # A variable can name those before it.
        for number, each in enumerate(container["env"]):
            assert set(re.findall(r"\$\((\w+)\)", each.get("value", ""))) <= set(names[:number])
    for each in controllers:
        assert each["selector"]["matchLabels"].items() <= each["template"]["metadata"]["labels"].items()


def test_what_values_do(helm):
    objects = drawn_up(helm, VALUES["default"])
    digits = base64.b64decode(objects["Secret/demo-ray-rs-token"]["data"]["token"]).decode()
    assert re.fullmatch("[0-9a-f]{64}", digits)
    objects = drawn_up(helm, VALUES["plain"])
    assert base64.b64decode(objects["Secret/demo-ray-rs-token"]["data"]["token"]).decode() == "ab" * 32
    (head,) = objects["StatefulSet/demo-ray-rs-head"]["spec"]["template"]["spec"]["containers"]
    assert "--include-dashboard=false" in head["args"] and "--tls" not in head["args"]
    objects = drawn_up(helm, VALUES["all"])
    assert not [name for name in objects if name.startswith("Secret/")]
    worker = objects["Deployment/demo-ray-rs-worker"]["spec"]
    assert worker["replicas"] == 0
    pod = worker["template"]["spec"]
    assert pod["nodeSelector"] == {"disk": "ssd"} and pod["tolerations"] == VALUES["all"]["tolerations"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/ray:9"
    assert {"name": "A", "value": "1"} in container["env"]
    assert "--labels=kind=b,zone=a" in container["args"]


def test_values_that_make_no_sense_are_refused(helm):
    for wrong in ({"workers": {"replica": 1}}, {"tls": "yes"}, {"head": {"web": {"port": 0}}}):
        with pytest.raises(helm.HelmError):
            drawn_up(helm, wrong)
