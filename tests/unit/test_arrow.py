"""Slices of Arrow data are pickled without the memory around them. No cluster."""

import pickle

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray_rs import _serialization

ROWS = 20_000

LONG = {
    "int64": pa.array(range(ROWS)),
    "int8 with nulls": pa.array([None if n % 3 == 0 else n % 100 for n in range(ROWS)], pa.int8()),
    "float": pa.array([n / 7 for n in range(ROWS)], pa.float32()),
    "bool": pa.array([None if n % 7 == 0 else n % 3 == 0 for n in range(ROWS)]),
    "timestamp": pa.array(range(ROWS), pa.timestamp("us", tz="UTC")),
    "decimal": pa.array(range(ROWS), pa.int64()).cast(pa.decimal128(30, 2)),
    "fixed binary": pa.array([b"%07d" % n for n in range(ROWS)], pa.binary(7)),
    "string": pa.array([None if n % 5 == 0 else "x" * (n % 13) for n in range(ROWS)]),
    "binary": pa.array([b"y" * (n % 13) for n in range(ROWS)]),
    "large string": pa.array([f"text {n}" for n in range(ROWS)], pa.large_string()),
    "string view": pa.array([f"a text that is not short {n}" for n in range(ROWS)], pa.string_view()),
    "null": pa.nulls(ROWS),
    "list": pa.array([None if n % 11 == 0 else list(range(n % 5)) for n in range(ROWS)]),
    "large list": pa.array([["a", None, "b" * (n % 4)] for n in range(ROWS)], pa.large_list(pa.string())),
    "fixed list": pa.array([[n, None] for n in range(ROWS)], pa.list_(pa.int32(), 2)),
    "struct": pa.array([{"a": n, "b": {"c": str(n)}} if n % 4 else None for n in range(ROWS)]),
    "map": pa.array([[("k", n)] for n in range(ROWS)], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array([f"word {n % 10}" for n in range(ROWS)]).dictionary_encode(),
    "list of dictionaries": pa.ListArray.from_arrays(
        pa.array(range(0, 2 * ROWS + 1, 2), pa.int32()), pa.array(["a", "b"] * ROWS).dictionary_encode()
    ),
    "dense union": pa.UnionArray.from_dense(
        pa.array([n % 2 for n in range(ROWS)], pa.int8()),
        pa.array([n // 2 for n in range(ROWS)], pa.int32()),
        [pa.array(range(ROWS // 2)), pa.array([str(n) for n in range(ROWS // 2)])],
    ),
    "sparse union": pa.UnionArray.from_sparse(
        pa.array([n % 2 for n in range(ROWS)], pa.int8()),
        [pa.array(range(ROWS)), pa.array([str(n) for n in range(ROWS)])],
    ),
    "extension": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([n % 2 for n in range(ROWS)], pa.int8())),
}


def through_pickle(value):
    """What comes back, and how many bytes it took."""
    stream, buffers = _serialization.dumps(value)
    raw = [bytes(buffer.raw()) for buffer in buffers]
    return pickle.loads(stream, buffers=raw), len(stream) + sum(map(len, raw))


def same(one, other):
    return one.type == other.type and one.to_pylist() == other.to_pylist() and one.null_count == other.null_count


@pytest.mark.parametrize("name", LONG)
@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, ROWS), length=st.integers(0, 300))
def test_a_slice_comes_back_and_takes_little(name, start, length):
    whole = LONG[name]
    part = whole.slice(start, length)
    back, size = through_pickle(part)
    back.validate(full=True)
    assert same(back, part)
    # Of views Arrow keeps all texts, and of some unions what their children have.
    if name != "string view" and "union" not in name:
        assert size < 8_000 + 80 * length


@pytest.mark.parametrize("name", LONG)
def test_a_slice_of_a_slice_and_a_whole_array(name):
    whole = LONG[name]
    back, _ = through_pickle(whole.slice(11, 9_000).slice(2, 100))
    assert same(back, whole.slice(13, 100))
    back, size = through_pickle(whole)
    assert same(back, whole) and size < whole.get_total_buffer_size() + 20_000
    again, _ = through_pickle(through_pickle(whole.slice(3, 50))[0].slice(5, 20))
    assert same(again, whole.slice(8, 20))


def test_tables_batches_and_chunks():
    names = [name for name in LONG if name not in ("string view", "dense union", "sparse union")]
    table = pa.table({name: LONG[name] for name in names}, metadata={"who": "me"})
    part = table.slice(777, 40)
    back, size = through_pickle(part)
    assert back.equals(part, check_metadata=True) and size < 60_000
    batch = table.combine_chunks().to_batches()[0].slice(5, 10)
    back, size = through_pickle({"batch": [batch]})
    assert back["batch"][0].equals(batch) and size < 60_000
    chunked = pa.chunked_array([LONG["int64"].slice(1, 3), LONG["int64"].slice(19_000, 5), LONG["int64"].slice(0, 0)])
    back, size = through_pickle(chunked)
    assert back.equals(chunked) and back.num_chunks == 3 and size < 5_000


def test_what_comes_back_looks_at_the_buffers():
    """Nothing is copied on the way back: the memory is that of the buffers given."""
    part = LONG["int64"].slice(1001, 5_000)
    stream, buffers = _serialization.dumps(part)
    raw = max((bytes(buffer.raw()) for buffer in buffers), key=len)
    back = pickle.loads(stream, buffers=[raw if buffer.raw().nbytes == len(raw) else buffer for buffer in buffers])
    assert back.buffers()[1].address == pa.py_buffer(raw).address


def test_a_nested_extension_type_that_is_not_registered():
    class Angle(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.float64(), "test.angle")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            return cls()

    angles = pa.ExtensionArray.from_storage(Angle(), pa.array([float(n) for n in range(ROWS)]))
    back, size = through_pickle(angles.slice(3, 4))
    assert back.type == angles.type and back.storage.to_pylist() == [3.0, 4.0, 5.0, 6.0] and size < 5_000
    nested = pa.StructArray.from_arrays([angles], ["angle"]).slice(7, 2)
    back, _ = through_pickle(nested)
    assert back.type == nested.type and back.to_pylist() == nested.to_pylist()


def test_a_serializer_of_the_user_goes_first():
    from ray_rs.util import deregister_serializer, register_serializer

    register_serializer(pa.Int64Array, serializer=lambda array: "mine", deserializer=lambda text: text)
    try:
        assert through_pickle(LONG["int64"].slice(1, 2))[0] == "mine"
    finally:
        deregister_serializer(pa.Int64Array)
