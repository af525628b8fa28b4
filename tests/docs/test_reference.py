"""The API reference has every public name, and each has a docstring for it."""

import ast
import importlib
import inspect
import operator
import re
from collections.abc import Iterator
from typing import Any

import pages
import pytest
import ray_rs
import ray_rs.util
from under_test import ray_rs_only

pytestmark = ray_rs_only("is about the reference of ray_rs")

TEXTS = {page: page.read_text() for page in sorted((pages.DOCS / "reference").glob("*.md"))}
# What a page takes from the sources, with its options; and names that it tells of itself, in tables and running text.
DIRECTIVES = dict(re.findall(r"^::: (\S+)\n((?:    .*\n)*)", "".join(TEXTS.values()) + "\n", re.M))
TOLD = set(re.findall(r"`(ray_rs(?:\.\w+)+)`", "".join(TEXTS.values())))
HEADINGS = set(re.findall(r'heading: "?(ray_rs(?:\.\w+)+)', "".join(DIRECTIVES.values())))


def resolved(path: str) -> Any:
    module, rest = path, []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            rest.insert(0, name)
    for name in rest:
        found = getattr(found, name)
    return found


def covered() -> Iterator[str]:
    """The name of everything that a reader finds."""
    yield from DIRECTIVES
    yield from TOLD
    yield from HEADINGS
    for path in DIRECTIVES:
        # `_core` has stubs only: classes of its own.
        if path.startswith("ray_rs._core."):
            continue
        found = resolved(path)
        if inspect.ismodule(found):
            yield from (f"{path}.{name}" for name in getattr(found, "__all__", ()))


COVERED = set(covered())


def is_covered(package: str, name: str) -> bool:
    if f"{package}.{name}" in COVERED:
        return True
    found = getattr(importlib.import_module(package), name)
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if home in COVERED:
        return True
    # A package without anything of its own.
    return inspect.ismodule(found) and any(each.startswith(f"{package}.{name}.") for each in COVERED)


@pytest.mark.parametrize("name", ray_rs.__all__)
def test_the_package(name):
    assert is_covered("ray_rs", name)


@pytest.mark.parametrize("name", [*ray_rs.util.__all__, *ray_rs.util._SUBMODULES, "metrics", "state"])
def test_util(name):
    assert is_covered("ray_rs.util", name)


@pytest.mark.parametrize("module", ["map", "job_submission", "cluster_utils", "job_config", "runtime_env", "as_ray"])
def test_what_is_in_no_list(module):
    assert any(f"ray_rs.{module}" == each or each.startswith(f"ray_rs.{module}.") for each in COVERED)


def stub_docstrings() -> dict[str, str]:
    """The docstrings in the stub of the extension, of functions, classes, and `Class.member`."""
    found = {}
    tree = ast.parse((pages.ROOT / "python/ray_rs/_core.pyi").read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(child)
                if text:
                    found[f"{node.name}.{child.name}" if isinstance(node, ast.ClassDef) else child.name] = text
    return found


IN_STUB = stub_docstrings()
# Whose methods are those of every id.
IDS = [name for name in dir(ray_rs) if re.fullmatch(r"[A-Z]\w*ID", name) and name != "ObjectID"]


def is_native(found: Any) -> bool:
    return vars(ray_rs._core).get(getattr(found, "__name__", "")) is found


def without_docstring(found: Any) -> list[str]:
    """Public names that the site shows of this, and that have nothing to say."""
    if inspect.ismodule(found):
        inner = [getattr(found, name) for name in getattr(found, "__all__", ())]
        own = [each for each in inner if getattr(each, "__module__", "").startswith("ray_rs") and callable(each)]
        missing = [name for each in own for name in without_docstring(each)]
        return missing if found.__doc__ else [found.__name__, *missing]
    name = found.__name__
    if is_native(found):
        members = [each for each in vars(found) if not each.startswith("_")] if inspect.isclass(found) else []
        prefixes = [name, "_BaseID"] if name in IDS else [name]
        bare = [f"{name}.{each}" for each in members if not any(f"{prefix}.{each}" in IN_STUB for prefix in prefixes)]
        return bare if name in IN_STUB else [name, *bare]
    members = vars(found).items() if inspect.isclass(found) else ()
    shown = {each: value for each, value in members if inspect.isroutine(value) or isinstance(value, property)}
    bare = [f"{name}.{each}" for each in shown if not each.startswith("_") and not inspect.getdoc(getattr(found, each))]
    return bare if inspect.getdoc(found) else [name, *bare]


def assigned_without_text(module: Any) -> list[str]:
    """Public names of a module that are functions by assignment, with no text below it for the site."""
    body = ast.parse(inspect.getsource(module)).body
    missing = []
    for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        public = [name for name in names if name in getattr(module, "__all__", ()) and callable(getattr(module, name))]
        has_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        missing += [] if has_text else public
    return missing


@pytest.mark.parametrize("path", [path for path in DIRECTIVES if not path.startswith("ray_rs._core.")])
def test_what_is_shown_is_known_without_running_it(path):
    module = resolved(path)
    if inspect.ismodule(module):
        homes = {getattr(getattr(module, name), "__module__", None) for name in getattr(module, "__all__", ())}
        homes = {home for home in homes if home and home.startswith("ray_rs.")} | {module.__name__}
        assert [name for home in homes for name in assigned_without_text(importlib.import_module(home))] == []


@pytest.mark.parametrize("path", [path for path in DIRECTIVES if not path.startswith("ray_rs._core.")])
def test_what_is_shown_has_has_a_docstring(path):
    assert without_docstring(resolved(path)) == []


def members_of_native_classes() -> Iterator[tuple[str, str]]:
    """A name in the package, and what the stub calls it."""
    for name in ["cancel", "empty", "get", "is_initialized", "kill", "put", "wait", "why"]:
        yield name, name
    for name in ["ObjectRef", *IDS]:
        yield name, name
        for member in vars(getattr(ray_rs, name)):
            if not member.startswith("_"):
                own = f"{name}.{member}"
                yield own, own if own in IN_STUB else f"_BaseID.{member}"


@pytest.mark.parametrize(("name", "in_stub"), list(members_of_native_classes()))
def test_help_says_what_editors_and_the_site_say(name, in_stub):
    assert inspect.getdoc(operator.attrgetter(name)(ray_rs)) == IN_STUB[in_stub]
