"""What a driver says of itself. No cluster."""

import json
import os
import pickle
import re
import sys

from ray_rs import _processes


def config(**given):
    return _processes.driver_config(**{"namespace": None, "log_to_driver": True, **given})


def test_plain_values_only():
    made = config(namespace="tests")
    assert made["namespace"] == "tests"
    assert made["cwd"] == os.getcwd()
    assert made["executable"] == sys.executable
    assert all(os.path.isabs(entry) for entry in made["sys_path"])
    assert json.loads(json.dumps(made)) == pickle.loads(pickle.dumps(made)) == made


def test_a_namespace_is_made_up():
    one, other = config()["namespace"], config()["namespace"]
    assert one != other
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one)
    assert _processes.namespace_is_anonymous()
    config(namespace="x")
    assert not _processes.namespace_is_anonymous()


def test_what_is_no_text_is_left_out(monkeypatch):
    monkeypatch.setenv("RAY_RS_ODD", os.fsdecode(b"\xff"))
    monkeypatch.setattr(sys, "path", ["", os.fsdecode(b"/\xff"), "relative"])
    made = config()
    assert "RAY_RS_ODD" not in made["env"]
    assert os.getcwd() in made["sys_path"]
    assert os.path.join(os.getcwd(), "relative") in made["sys_path"]
    assert not any("\udcff" in entry for entry in made["sys_path"])


def test_the_machine():
    assert 1 <= _processes.cpu_count() <= (os.cpu_count() or 1)
    assert _processes.available_memory_bytes() > 0
    assert _processes.object_store_bytes() >= _processes.MIN_OBJECT_STORE_BYTES


def test_gpus_of_the_environment(monkeypatch):
    for value, count in (("0,2", 2), ("", 0), ("-1", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert _processes.gpu_count() == count
