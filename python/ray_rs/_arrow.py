"""How Arrow's arrays are pickled when they show only part of their memory.

Arrow slices without copying, and pickles the whole buffers that a slice lies in: ten rows of a table of a gigabyte took
a gigabyte of the object store. Here the buffers are cut first. Those of fixed-width values and of texts are cut in
place, and copied only once, straight into the store; others go through Arrow's own stream format, which cuts them too.

Nothing here imports pyarrow before a value of it is there.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["reduce", "restore_array", "restore_empty", "restore_extension", "restore_stream"]

# A buffer may be padded by so much, and an array may leave so much unused, before it is worth to be cut.
_SLACK_BYTES = 1024


def reduce(array: Any) -> Any:
    """The reduction of an Arrow array that is smaller than its memory.

    Args:
        array: Any object whose class is of the module `pyarrow.lib`.

    Returns:
        As of `__reduce__`; `NotImplemented` when Arrow's own does well.
    """
    pyarrow = sys.modules["pyarrow"]
    if not isinstance(array, pyarrow.Array) or not _wastes_memory(array):
        return NotImplemented
    if isinstance(array, pyarrow.ExtensionArray):
        return restore_extension, (array.type, array.storage)
    return _cut(pyarrow, array) or _emptied(pyarrow, array) or _streamed(pyarrow, array) or NotImplemented


def _wastes_memory(array: Any) -> bool:
    try:
        return bool(array.get_total_buffer_size() > array.nbytes + _SLACK_BYTES)
    except Exception:  # a layout that this version of Arrow cannot measure
        return False


# ------------------------------------------------------------------------------------------------------ cut in place


def _cut(pyarrow: Any, array: Any) -> tuple[Any, ...] | None:
    """The reduction of an array without children, whose buffers are cut where they lie."""
    kind = array.type
    types = pyarrow.types
    # Bits are cut at whole bytes, so that up to seven values before the first stay.
    start, before = array.offset // 8 * 8, array.offset % 8
    count = before + len(array)
    buffers = array.buffers()
    validity = buffers[0] and _piece(buffers[0], start // 8, (count + 7) // 8)
    if types.is_boolean(kind):
        cut = [validity, _piece(buffers[1], start // 8, (count + 7) // 8)]
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        width = kind.bit_width // 8
        cut = [validity, _piece(buffers[1], start * width, count * width)]
    elif types.is_string(kind) or types.is_binary(kind):
        cut = [validity, *_cut_texts(pyarrow, pyarrow.int32(), buffers, start, count)]
    elif types.is_large_string(kind) or types.is_large_binary(kind):
        cut = [validity, *_cut_texts(pyarrow, pyarrow.int64(), buffers, start, count)]
    else:
        return None
    return restore_array, (kind, len(array), cut, array.null_count, before)


def _piece(buffer: Any, start: int, length: int) -> Any:
    return buffer.slice(start, min(length, buffer.size - start))


def _cut_texts(pyarrow: Any, kind: Any, buffers: list[Any], start: int, count: int) -> list[Any]:
    """Offsets and data of texts; the offsets become those in the piece."""
    if buffers[2] is None:
        return [buffers[1], None]
    offsets = pyarrow.Array.from_buffers(kind, count + 1, [None, buffers[1]], 0, start)
    first, last = offsets[0].as_py(), offsets[count].as_py()
    if first:
        compute = __import__("pyarrow.compute").compute
        offsets = compute.subtract(offsets, pyarrow.scalar(first, kind))
        start = 0
    width = kind.bit_width // 8
    return [_piece(offsets.buffers()[1], start * width, (count + 1) * width), _piece(buffers[2], first, last - first)]


def restore_array(kind: Any, length: int, buffers: list[Any], null_count: int, offset: int) -> Any:
    """Unpickles an array whose buffers were cut.

    Args:
        kind: Its type.
        length: Of the array.
        buffers: As of `pyarrow.Array.from_buffers`.
        null_count: How many values are null.
        offset: Values in the buffers before the first.

    Returns:
        The array, which looks at the buffers.
    """
    import pyarrow

    return pyarrow.Array.from_buffers(kind, length, buffers, null_count, offset)


def restore_extension(kind: Any, storage: Any) -> Any:
    """Unpickles an array of an extension type.

    Args:
        kind: The extension type.
        storage: The array inside.

    Returns:
        The array.
    """
    import pyarrow

    return pyarrow.ExtensionArray.from_storage(kind, storage)


# ----------------------------------------------------------------------------------------------- through Arrow's stream


def _emptied(pyarrow: Any, array: Any) -> tuple[Any, ...] | None:
    """The reduction of an array without values: the stream would keep all offsets of an empty slice of lists."""
    if len(array) or pyarrow.types.is_dictionary(array.type):
        return None
    try:
        restore_empty(array.type)
    except pyarrow.ArrowException:
        return None
    return restore_empty, (array.type,)


def restore_empty(kind: Any) -> Any:
    """Unpickles an array without values.

    Args:
        kind: Its type.

    Returns:
        The array.
    """
    import pyarrow

    return pyarrow.array([], kind)


def _streamed(pyarrow: Any, array: Any) -> tuple[Any, ...] | None:
    """The reduction of an array with children: a stream with one column, which holds nothing but the slice."""
    try:
        batch = pyarrow.RecordBatch.from_arrays([array], names=[""])
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        stream = sink.getvalue()
        # An extension type inside may be one that only this process knows by its name.
        if pyarrow.ipc.open_stream(stream).schema != batch.schema:
            return None
    except pyarrow.ArrowException:
        return None
    return restore_stream, (stream,)


def restore_stream(stream: Any) -> Any:
    """Unpickles an array that went through Arrow's stream format.

    Args:
        stream: A buffer with one column.

    Returns:
        The column, which looks at the buffer.
    """
    import pyarrow

    return pyarrow.ipc.open_stream(stream).read_next_batch().column(0)
