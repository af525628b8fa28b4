"""What cloudpickle is told of a function's globals is what it would have found out."""

import importlib
import types

import cloudpickle
from ray_rs import _code_globals, _serialization

MODULES = ["argparse", "ast", "asyncio.base_events", "csv", "fractions", "inspect", "json.encoder", "logging"]
MODULES += [
    "pickle",
    "random",
    "re",
    "shutil",
    "statistics",
    "tarfile",
    "threading",
    "typing",
    "unittest.mock",
    "zipfile",
]


def codes_in(module):
    """Code objects of the module's functions and methods."""
    for thing in list(vars(module).values()):
        for member in (thing, *(vars(thing).values() if isinstance(thing, type) else ())):
            member = getattr(member, "__func__", member)
            if isinstance(member, types.FunctionType):
                yield member.__code__


def test_names_and_their_order_are_those_of_the_disassembler():
    inner = cloudpickle.cloudpickle
    codes = [code for name in MODULES for code in codes_in(importlib.import_module(name))]
    assert len(codes) > 1000
    for code in codes:
        inner._extract_code_globals_cache.pop(code, None)
        assert list(_code_globals.global_names(code)) == list(inner._extract_code_globals(code)), code


def test_more_names_than_fit_in_one_byte():
    names = [f"name_{number}" for number in range(700)]
    code = compile(f"def f():\n global first, gone\n first = 1\n del gone\n return {' + '.join(names)}", "f", "exec")
    assert [*_code_globals.global_names(code)] == ["first", "gone", *names]


def test_a_function_takes_along_what_it_uses_and_nothing_else():
    scope = {"__name__": "__main__", "used": 1, "inner": 2, "unused": object()}
    exec("def f(x):\n def g():\n  return inner\n x.unused\n return used + g()", scope)
    pickled = _serialization.dumps_in_band(scope["f"])
    came = _serialization.loads(pickled)
    assert set(came.__globals__) & set(scope) == {"__name__", "used", "inner"} | (
        set(came.__globals__) & {"__builtins__"}
    )
    assert came(types.SimpleNamespace(unused=None)) == 3
