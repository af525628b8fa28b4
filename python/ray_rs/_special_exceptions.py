"""Exceptions that few programs meet: names that code written for Ray imports, whether or not this engine raises them.

`ray_rs.exceptions` gives them out under its own name.
"""

from __future__ import annotations

from ray_rs import exceptions
from ray_rs.exceptions import ObjectLostError, RayError, RaySystemError

__all__ = [
    "AsyncioActorExit",
    "AuthenticationError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectRefStreamEndOfStreamError",
    "OufOfBandObjectRefSerializationException",
    "PlasmaObjectNotAvailable",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
    "RpcError",
    "StreamingGeneratorReplayInconsistentError",
    "UserCodeException",
]


class ObjectFetchTimedOutError(ObjectLostError):
    """No node was found in time that holds the object."""


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand."""


class StreamingGeneratorReplayInconsistentError(RaySystemError):
    """A generator that was run again has yielded another number of items than the first time."""


class RayChannelError(RaySystemError):
    """Something went wrong in a channel of a compiled graph."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """An operation on a channel took longer than allowed."""


class RayCgraphCapacityExceeded(RaySystemError):
    """More calls of a compiled graph are under way than it has room for."""


class RayDirectTransportError(RaySystemError):
    """A transfer between devices failed."""


class RpcError(RayError):
    """A message between processes was lost.

    Attributes:
        message: What happened.
        rpc_code: The transport's code for it; None when it has none.
    """

    def __init__(self, message: str = "", rpc_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.rpc_code = rpc_code


class AuthenticationError(RayError):
    """The other side does not know this cluster's token, or this side does not.

    Attributes:
        message: What was refused.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return (
            f"{self.message} The token of a session lies in its directory, readable by the user who started it: "
            "connect as that user."
        ).strip()


class UserCodeException(RayError):
    """A wrapper that libraries raise around an error of the user's code (`raise ... from error`).

    `retry_exceptions` looks through it, at the error that it was raised from.
    """


class AsyncioActorExit(RayError):
    """An asyncio actor ends by `exit_actor()`."""


class PlasmaObjectNotAvailable(RayError):
    """An object was not there in time."""


class ObjectRefStreamEndOfStreamError(RayError):
    """A generator has no more items."""


class OufOfBandObjectRefSerializationException(RayError):
    """A reference was pickled by the user's own code, where that is forbidden. (The name is Ray's.)"""


for _name in __all__:
    globals()[_name].__module__ = exceptions.__name__
