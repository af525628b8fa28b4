"""Pickling, and the search for what can't be pickled. No cluster."""

import pickle
import threading

import numpy as np
import pytest
from ray_rs import _function_table, _serialization

LOCK = threading.Lock()


class Config:
    def __init__(self):
        self.handlers = [{"guard": LOCK}]


class Slotted:
    __slots__ = ("inner",)

    def __init__(self):
        self.inner = LOCK


class Reducing:
    def __reduce__(self):
        return dict, ([("lock", LOCK)],)


def uses_global():
    return LOCK


def make_closure(value):
    def closure():
        return value

    return closure


def with_default(x=LOCK):
    return x


with_default.__module__ = uses_global.__module__ = "__main__"  # so that they are pickled by value


def nested(levels):
    value = LOCK
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, ""),
        ([1, LOCK], "[1]"),
        (Config(), ".handlers[0]['guard']"),
        ({"a": (1, Config())}, "['a'][1].handlers[0]['guard']"),
        (Slotted(), ".inner"),
        (make_closure(LOCK), "closure variable 'value' of make_closure.<locals>.closure"),
        (
            make_closure(Config()),
            "closure variable 'value' of make_closure.<locals>.closure → .handlers[0]['guard']",
        ),
        (uses_global, "global variable 'LOCK' of uses_global"),
        (with_default, "default 0 of with_default"),
        (Reducing(), "arguments given by its __reduce__ → [0][0][1]"),
        (nested(5), "[0][0][0][0][0]"),
        (make_closure(LOCK).__get__(3), "function of make_closure.<locals>.closure → "),
    ],
    ids=lambda value: "",
)
def test_the_way_to_the_culprit(value, path):
    with pytest.raises(TypeError) as raised:
        _serialization.dumps(value)
    error = _serialization.explain_failure(value, "the argument", raised.value)
    assert isinstance(error, TypeError)
    assert "Could not serialize the argument" in str(error)
    assert "cannot pickle '_thread.lock' object" in str(error)
    assert "(_thread.lock) was found to be non-serializable" in str(error)
    if path:
        assert f"found at: {path}" in str(error)


def test_the_search_ends():
    loop = [LOCK]
    loop.append(loop)
    assert _serialization.find_culprit(loop, TypeError()).obj is LOCK
    wide = [object() for _ in range(10_000)]
    wide.append(LOCK)
    assert _serialization.find_culprit(wide, TypeError()).obj is wide  # given up


def test_a_value_whose_repr_raises():
    class Rude:
        def __init__(self):
            self.lock = LOCK

        def __repr__(self):
            raise RuntimeError

    assert "whose repr raised RuntimeError" in str(_serialization.explain_failure(Rude(), "it", TypeError("no")))


def test_buffers_leave_the_stream():
    array = np.arange(1000)
    stream, buffers = _serialization.dumps({"a": array})
    assert len(stream) < 500
    (buffer,) = buffers
    assert buffer.raw().nbytes == array.nbytes
    assert (pickle.loads(stream, buffers=buffers)["a"] == array).all()


def test_views_of_memory_become_bytes():
    stream, buffers = _serialization.dumps([memoryview(b"ab")])
    assert pickle.loads(stream, buffers=buffers) == [b"ab"]


def test_a_definition_sent_on_keeps_its_bytes():
    blob = _function_table.pickle_definition(make_closure(3), "the function closure")
    there = pickle.loads(blob)
    assert there() == 3
    assert _function_table.pickle_definition(there, "the function closure") == blob
    assert _function_table.pickle_definition(make_closure(4), "the function closure") != blob


def test_a_definition_that_captures_a_lock():
    with pytest.raises(TypeError, match=r"Could not serialize the function f .*\n.*closure variable 'value'"):
        _function_table.pickle_definition(make_closure(LOCK), "the function f")


def test_a_definition_that_is_too_large():
    with pytest.raises(ValueError, match="is too large"):
        _function_table.pickle_definition(make_closure(bytes(101_000_000)), "the function f")


def test_a_large_definition_is_warned_about(capsys):
    _function_table.pickle_definition(make_closure(bytes(11_000_000)), "the function f")
    assert "the function f is very large" in capsys.readouterr().err
