"""`ray.init("ray://host:port")`: a program from outside of the cluster.

The program gets a node of its own on its machine, which takes no work: a raylet and an object store, which end with
it. So whatever works on a node of the cluster works here. That node reaches the control store's port and nothing else,
and nobody has to reach it (`rust/transport/src/relay.rs`).
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ray_rs import _core, _processes

__all__ = ["SCHEME", "driver_config", "forget", "is_connected", "launch", "place_of"]

SCHEME = "ray://"
_LOOPBACK = "127.0.0.1"

_connected = False


def place_of(address: str) -> str:
    """Where a cluster is let in to.

    Args:
        address: "ray://host:port".

    Returns:
        host:port.

    Raises:
        ValueError: It is not of this form.
    """
    place = address[len(SCHEME) :]
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"Invalid address format: {address!r}. Say ray://<host>:<port>, the port being that of the head."
        )
    return place


def is_connected() -> bool:
    """Whether this process is connected through `ray://`."""
    return _connected and _core.is_initialized()


def forget() -> None:
    """The session has ended."""
    global _connected
    _connected = False


def driver_config(config: dict[str, Any]) -> dict[str, Any]:
    """What workers are told of a driver that is not from their cluster.

    They have Python, variables and modules of the machines on which they run. This machine's directories are looked
    into where they are there, too.

    Args:
        config: As `_processes.driver_config` gives it; changed.

    Returns:
        The same.
    """
    config.update(
        executable="", env={}, preload=[name for name in config["preload"] if not name.startswith("__editable__")]
    )
    return config


def launch(place: str) -> dict[str, Any]:
    """Starts this program's node.

    Args:
        place: host:port of the cluster.

    Returns:
        The session, as `_processes.launch_head` gives it.

    Raises:
        ConnectionError: Nobody answers there, it does not take the token, or no token is known.
    """
    global _connected
    # What it needs, most programs do without.
    from ray_rs import _joining

    address = _joining.numeric(place)
    with _joining.token_file(address, None) as token_path:
        assert token_path is not None
        _look_at(place, address, token_path)
        session = _processes.launch_head(
            num_cpus=0,
            num_gpus=0,
            resources={},
            memory=0,
            object_store_memory=_processes.object_store_bytes(),
            labels={},
            driver_config=None,
            is_client=True,
            node_ip=_LOOPBACK,
            join={"gcs_address": address, "token_path": token_path},
        )
    _connected = True
    return {**session, "client_of": place}


def _look_at(place: str, address: str, token_path: str) -> None:
    from ray_rs import _joining

    try:
        nodes = _processes.list_nodes(address, token_path)
    except ConnectionError as error:
        if "does not know" in str(error):
            raise ConnectionError(
                f"The cluster at {place} does not take the token. Its head has printed the name of the file with "
                f"the right one; its text goes into {_joining.TOKEN_VARIABLE}."
            ) from None
        raise ConnectionError(f"ray client connection timeout: no cluster answers at {place}: {error}") from None
    heads = [node for node in nodes if node["is_head"] and node["alive"]]
    if not any(head["raylet_address"] for head in heads):
        raise ConnectionError(
            f"The session at {place} is that of one program, which takes no others. Start a cluster with "
            "`ray_rs start --head`."
        )


def explained(error: Exception, place: str, session_dir: str) -> ConnectionError:
    """Why this program's node could not become part of the cluster.

    Args:
        error: What `_core.connect` raised.
        place: host:port of the cluster.
        session_dir: Of the session, which is still there.

    Returns:
        An error with the words of the daemon that gave up.
    """
    from ray_rs import _joining

    return ConnectionError(
        f"Cannot connect to the cluster at {place}: {error}. {_joining.last_words(session_dir, ['raylet'])}"
    )


def defaults(namespace: str | None, runtime_env: dict[str, Any] | None) -> tuple[str | None, dict[str, Any] | None]:
    """Namespace and runtime environment: RAY_NAMESPACE and RAY_RUNTIME_ENV count where the program says nothing.

    Args:
        namespace: What the program says.
        runtime_env: The same.

    Returns:
        What counts.

    Raises:
        ValueError: RAY_RUNTIME_ENV is no JSON object.
    """
    if namespace is None:
        namespace = os.environ.get("RAY_NAMESPACE") or None
    text = os.environ.get("RAY_RUNTIME_ENV")
    if runtime_env is None and text:
        import json

        try:
            runtime_env = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"RAY_RUNTIME_ENV is no JSON object: {error}") from None
    return namespace, runtime_env


def protocol_version() -> str:
    """Version of Python and of ray_rs, which both sides have in common."""
    from ray_rs import __version__

    return f"ray_rs {__version__}, Python {sys.version_info[0]}.{sys.version_info[1]}"
