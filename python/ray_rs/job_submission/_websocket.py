"""As much of a WebSocket's client (RFC 6455) as following a log takes: it reads text, and answers pings."""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any

__all__ = ["messages"]

_CONTINUED, _TEXT, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x8, 0x9, 0xA
_MAX_FRAME_BYTES = 64 << 20


def messages(
    connection: HTTPConnection, path: str, headers: dict[str, str], refused: Callable[[int, str], Exception]
) -> Iterator[str]:
    """Opens a WebSocket and reads its text.

    Args:
        connection: To the server; it is closed in the end.
        path: What to ask for.
        headers: Sent along.
        refused: Makes the error of an answer that is no WebSocket, from its status and text.

    Yields:
        Messages, until the server says that it is done.

    Raises:
        ConnectionError: The server went away without a word.
    """
    try:
        stream = _opened(connection, path, headers, refused)
        yield from _read(stream, connection)
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"The connection to {connection.host}:{connection.port} broke: {error}") from error
    finally:
        connection.close()


def _opened(
    connection: HTTPConnection, path: str, headers: dict[str, str], refused: Callable[[int, str], Exception]
) -> Any:
    key = base64.b64encode(os.urandom(16)).decode()
    asked = {
        **headers,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    connection.request("GET", path, headers=asked)
    response = connection.getresponse()
    if response.status != 101:
        raise refused(response.status, response.read().decode(errors="replace"))
    # What follows the head is in the response's own buffer.
    return response.fp


def _read(stream: Any, connection: HTTPConnection) -> Iterator[str]:
    text = b""
    while True:
        first, second = _exactly(stream, 2)
        is_last, kind, size = bool(first & 0x80), first & 0x0F, second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", _exactly(stream, 2))
        elif size == 127:
            (size,) = struct.unpack(">Q", _exactly(stream, 8))
        if size > _MAX_FRAME_BYTES:
            raise ConnectionError(f"a frame of {size} bytes")
        content = _exactly(stream, size)
        if kind == _CLOSE:
            return
        if kind == _PING:
            _send(connection, _PONG, content)
        elif kind in (_TEXT, _CONTINUED):
            text += content
            if is_last:
                yield text.decode(errors="replace")
                text = b""


def _exactly(stream: Any, size: int) -> bytes:
    content: bytes = stream.read(size)
    if len(content) < size:
        raise ConnectionError("the server closed it")
    return content


def _send(connection: HTTPConnection, kind: int, content: bytes) -> None:
    # A client's frames are masked; pings carry 125 bytes at most.
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(content[:125]))
    connection.sock.sendall(bytes([0x80 | kind, 0x80 | len(masked)]) + mask + masked)
