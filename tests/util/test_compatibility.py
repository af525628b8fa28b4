"""docs/compatibility.md says what of Ray is there; here it is compared with the code."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from under_test import ray, ray_rs_only

pytestmark = ray_rs_only("is about a page of ray_rs's")

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
STATES = {"works", "partly", "refused", "absent"}

# What is asked for where an option or a parameter is refused.
ASKING = {
    "_actor_generator_backpressure_num_objects": 1,
    "_num_objects_per_yield": 2,
    "cgroup_path": "/sys/fs/cgroup",
    "enable_resource_isolation": True,
    "enable_tensor_transport": True,
    "include_dashboard": True,
    "local_mode": True,
    "object_store_memory": 10**9,
    "runtime_env": {"env_vars": {"A": "1"}},
    "system_reserved_cpu": 1.0,
    "system_reserved_memory": 10**9,
    "tensor_transport": "nccl",
}


def rows(heading: str | None = None) -> Iterator[tuple[str, str, list[str]]]:
    """Name, state and the cells between them, of each name in the page's tables or in the one under a heading."""
    section = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ").strip()
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) < 3 or not cells[0].startswith("`"):
            continue
        if heading in (None, section):
            for name in re.findall(r"`([^`]+)`", cells[0]):
                yield name, cells[-2], cells[1:-2]


def names() -> dict[str, str]:
    return {name: state for name, state, _ in rows() if name.startswith("ray.")}


def resolve(name: str) -> Any:
    """What a dotted name stands for; AttributeError or ImportError when nothing."""
    found: Any = ray
    path = "ray_rs"
    for part in name.split(".")[1:]:
        path += f".{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            if not inspect.ismodule(found):
                raise
            found = importlib.import_module(path)
    return found


def is_there(name: str) -> bool:
    try:
        resolve(name)
    except (AttributeError, ImportError):
        return False
    return True


def test_states_are_those_explained():
    assert {state for _, state, _ in rows()} == STATES
    listed = [name for name, _, _ in rows() if name.startswith("ray.")]
    assert sorted(listed) == sorted(set(listed)), "a name is listed twice"
    assert len(listed) > 250


def test_names_are_there_or_not():
    wrong = [
        f"{name}: the page says {state!r}, and it is {'there' if is_there(name) else 'not there'}"
        for name, state in names().items()
        if (state == "absent") == is_there(name)
    ]
    assert not wrong, "docs/compatibility.md and the code disagree:\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", [name for name, state in names().items() if state == "refused"])
def test_refused_names_give_a_reason(name):
    function = resolve(name)
    parameters = inspect.signature(function).parameters.values()
    arguments = [None for each in parameters if each.kind <= each.POSITIONAL_OR_KEYWORD and each.default is each.empty]
    with pytest.raises(NotImplementedError, match=r"\w+ \w+ \w+"):
        function(*arguments)


@pytest.mark.parametrize("module", ["ray", "ray.util", "ray.exceptions", "ray.dag", "ray.util.dask", "ray.runtime_env"])
def test_every_public_name_is_listed(module):
    listed = names()
    public = {f"{module}.{name}" for name in resolve(module).__all__}
    missing = {name for name in public if not any(each == name or each.startswith(f"{name}.") for each in listed)}
    assert not missing, f"not in docs/compatibility.md: {sorted(missing)}"


def test_parameters_of_init():
    listed = {name: state for name, state, _ in rows("Parameters of `init`")}
    taken = {each.name for each in inspect.signature(ray.init).parameters.values() if each.kind != each.VAR_KEYWORD}
    assert set(listed) == taken
    for name in (name for name, state in listed.items() if state == "refused"):
        with pytest.raises((ValueError, NotImplementedError, RuntimeError), match=name):
            ray.init(**{name: ASKING[name]})
        assert not ray.is_initialized(), f"{name} is not refused"


def test_options():
    listed = {name: (state, takers) for name, state, (takers,) in rows("Options")}
    table = ray.options.OPTIONS
    assert set(listed) == set(table)
    for name, (state, takers) in listed.items():
        assert set(takers.split()) == set(table[name].takers), name
        if state == "refused":
            with pytest.raises((ValueError, NotImplementedError), match=name):
                table[name].validate(name, ASKING[name])
        else:
            table[name].validate(name, table[name].default)
