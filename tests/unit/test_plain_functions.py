"""Functions that are written without cloudpickle come out as cloudpickle's would."""

import math
import os.path
import sys
import types

import pytest
from ray_rs import _function_table, _plain_functions, _serialization, cloudpickle

FACTOR = 3
NESTED = (1, ("two", None), b"three")
LIST = [1]


def in_main(function, **more):
    """The same function, as if the script that runs had defined it."""
    own = {"__name__": "__main__", "__file__": "script.py", "__package__": None, **more}
    made = types.FunctionType(function.__code__, own, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__annotations__ = dict(function.__annotations__)
    made.__qualname__ = function.__qualname__
    made.__module__ = "__main__"
    made.__doc__ = function.__doc__
    return made


def simple(a: int, b: "str" = "x", *rest: float, c: "list | None" = None, **more) -> None:
    """Says what it does."""
    return math.sqrt(a) * FACTOR, len(b), [x + a for x in rest], NESTED, c, more


def generator():
    yield from range(FACTOR)


ALIKE = ["__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__", "__annotations__"]
ALIKE += ["__closure__", "__dict__", "__code__"]


@pytest.mark.parametrize("function", [simple, generator, lambda x: x * FACTOR, lambda: os.path.sep])
def test_what_comes_out_is_what_cloudpickle_makes(function):
    function = in_main(function, math=math, FACTOR=FACTOR, NESTED=NESTED, unused=LIST)
    if "os" in function.__code__.co_names:
        function.__globals__["os"] = os
    written = _plain_functions.dumps(function)
    assert written is not None
    plain, other = _plain_functions.loads(written), _serialization.loads(cloudpickle.dumps(function))
    for name in ALIKE:
        assert getattr(plain, name) == getattr(other, name), name
    assert list(plain.__annotations__) == list(function.__annotations__)
    assert plain.__code__.co_filename == __file__
    drop = "__builtins__"
    assert {k: v for k, v in plain.__globals__.items() if k != drop} == {
        k: v for k, v in other.__globals__.items() if k != drop
    }
    if function.__name__ == "simple":
        assert plain(4, "ab", 1.0, c=1, d=2) == (6.0, 2, [5.0], NESTED, 1, {"d": 2})


class Odd(str):
    pass


def with_closure():
    kept = 1
    return lambda: kept


def annotated(a: math.floor):
    return a


def attributes():
    return None


attributes.more = 1


def defaults(a=LIST):
    return a


def nested_code():
    return [(lambda: FACTOR) for _ in range(2)]


def refused():
    yield in_main(with_closure())
    yield in_main(annotated)
    own = in_main(attributes)
    own.more = 1
    yield own
    yield in_main(defaults)
    yield in_main(simple, math=math, FACTOR=Odd("3"))
    yield in_main(simple, math=math, FACTOR=LIST)
    yield in_main(nested_code, FACTOR=LIST)
    yield in_main(simple, math=sys.modules["json" if "json" in sys.modules else "ray_rs"])
    unknown = types.ModuleType("not_imported_by_name")
    yield in_main(simple, math=unknown)
    yield simple
    yield Odd
    yield len
    yield 1


@pytest.mark.parametrize("thing", list(refused()))
def test_what_may_hold_more_is_left_to_cloudpickle(thing):
    assert _plain_functions.dumps(thing) is None


def test_modules_by_value_are_left_to_cloudpickle(tmp_path, monkeypatch):
    (tmp_path / "by_value_here.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import by_value_here

    function = in_main(lambda: by_value_here.f(), by_value_here=by_value_here)
    function.__globals__["by_value_here"] = by_value_here
    plain = in_main(lambda: math.pi, math=math)
    assert _plain_functions.dumps(plain) is not None
    cloudpickle.register_pickle_by_value(by_value_here)
    try:
        assert _plain_functions.dumps(plain) is None
    finally:
        cloudpickle.unregister_pickle_by_value(by_value_here)


def test_what_was_loaded_is_sent_on_as_the_same_bytes():
    function = in_main(lambda: FACTOR, FACTOR=FACTOR)
    pickled = _function_table.pickle_definition(function, "it")
    loaded = _serialization.loads(pickled)
    assert loaded() == FACTOR
    assert _function_table.pickle_definition(loaded, "it") == pickled
    _function_table.forget(loaded)
    assert id(loaded) not in _function_table._loaded
