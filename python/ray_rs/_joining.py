"""What has to be known to join a cluster: where it is, and its token."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator

from ray_rs import _processes

__all__ = ["TOKEN_VARIABLE", "last_words", "look_at", "numeric", "token_file"]

# The token's text, for whoever has no file with it.
TOKEN_VARIABLE = "RAY_RS_TOKEN"
_LAST_LINES = 5


def numeric(address: str) -> str:
    """`host:port` with a number for the host.

    Args:
        address: The same with a name or a number.

    Returns:
        The first address that the name has.

    Raises:
        ValueError: It is not of this form.
        ConnectionError: The name is not known.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} is not of the form HOST:PORT")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionError(f"{host} is not known: {error}") from None
    number = found[0][4][0]
    return f"[{number}]:{port}" if ":" in str(number) else f"{number}:{port}"


@contextlib.contextmanager
def token_file(address: str | None, given: str | None) -> Iterator[str | None]:
    """A file with a cluster's token: the given one, one with RAY_RS_TOKEN's text, or that of a session of this machine.

    Args:
        address: Of the cluster's control store; None: of one that is yet to start.
        given: Path of a file that somebody has named.

    Yields:
        Its path; None: there is none, and the new cluster makes one.

    Raises:
        ConnectionError: No token is known for the cluster.
    """
    text = os.environ.get(TOKEN_VARIABLE, "")
    if given and not os.path.isfile(given):
        raise ConnectionError(f"There is no token in {given}: it is no file.")
    if given or not text:
        yield _token_on_this_machine(address) if given is None and address is not None else given
        return
    # Made for its owner only.
    descriptor, path = tempfile.mkstemp(prefix="ray_rs_token_")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text.strip() + "\n")
        yield path
    finally:
        os.unlink(path)


def _token_on_this_machine(address: str) -> str:
    wanted = numeric(address)
    for session in _processes.living_sessions():
        if wanted in (session["gcs_address"], session["client_address"]):
            return f"{session['session_dir']}/token"
    raise ConnectionError(
        f"No token for the cluster at {address}. Its head has printed the name of a file: pass a copy of that with "
        f"--token-file, or its text in {TOKEN_VARIABLE}."
    )


def look_at(address: str, token_path: str | None) -> None:
    """Sees that there is a cluster which takes the token, before anything is started.

    Args:
        address: Of its control store, with a number for the host.
        token_path: File with the token.

    Raises:
        ConnectionError: There is none, or it does not take it.
    """
    assert token_path is not None
    try:
        _processes.list_nodes(address, token_path)
    except ConnectionError as error:
        hint = " The token is not that of this cluster, most likely." if "does not know" in str(error) else ""
        raise ConnectionError(f"Cannot join the cluster at {address}: {error}.{hint}") from None


def last_words(directory: str, daemons: list[str]) -> str:
    """What daemons have written last.

    Args:
        directory: Of their session.
        daemons: Their names.

    Returns:
        Text for people, of some lines.
    """
    words = []
    for name in daemons:
        with contextlib.suppress(OSError), open(f"{directory}/logs/{name}.log") as log:
            lines = [line.rstrip() for line in log if line.strip()]
            words += [f"{name}: {line}" for line in lines[-_LAST_LINES:]]
    return "\n".join(["Its daemons say:", *words]) if words else "Its daemons say nothing."
