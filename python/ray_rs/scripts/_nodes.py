"""`start` and `stop`: nodes that live until somebody stops them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Any

from ray_rs import _autoscaling, _init_options, _joining, _processes
from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format, amount, port

__all__ = ["add", "add_node_options", "launched", "token_file"]

_DEFAULT_PORT = 6379
_WEB_PORT = _processes.WEB_PORT
_ROOT_VARIABLE = "RAY_RS_TMPDIR"
_PORTS_OF_RAY = (
    "--min-worker-port",
    "--max-worker-port",
    "--worker-port-list",
    "--node-manager-port",
    "--object-manager-port",
    "--metrics-export-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
)
_START_LIMIT_S = 30
_POLL_S = 0.02


def add(commands: Any) -> None:
    """Adds the commands.

    Args:
        commands: What `argparse` calls subparsers.
    """
    start = commands.add_parser(
        "start",
        help="start a node on this machine",
        description="Starts a node: the head of a new cluster, or one that joins. It lives until `ray_rs stop`. "
        f"Whoever joins needs the cluster's token: --token-file, or its text in {_joining.TOKEN_VARIABLE}.",
    )
    which = start.add_mutually_exclusive_group(required=True)
    which.add_argument("--head", action="store_true", help="the first node of a new cluster")
    which.add_argument("--address", metavar="HOST:PORT", help="join the cluster whose head listens there")
    start.add_argument(
        "--port", type=port, help=f"of a head: where it listens (default: {_DEFAULT_PORT}; 0: any that is free)"
    )
    start.add_argument(
        "--node-ip-address",
        "--host",
        dest="host",
        default="127.0.0.1",
        help="the address of this machine at which other nodes reach it; the default is reached from this machine only",
    )
    add_node_options(start)
    add_format(start)
    start.add_argument("--block", action="store_true", help="stay until the node ends; Ctrl-C stops it")
    start.set_defaults(run=_start)
    stop = commands.add_parser("stop", help="stop the nodes that `start` has started on this machine")
    stop.add_argument("-f", "--force", action="store_true", help="as without: nodes that do not end in time are killed")
    stop.add_argument("-g", "--grace-period", type=float, help=argparse.SUPPRESS)
    add_format(stop)
    stop.set_defaults(run=_stop)


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """What can be said of a node beside where it is.

    Args:
        parser: Gets the options.
    """
    parser.add_argument(
        "--ray-client-server-port",
        type=port,
        metavar="PORT",
        help="of a head: programs from outside (ray://) are let in here as well (default: only at --port)",
    )
    parser.add_argument("--token-file", help="file with the cluster's token")
    parser.add_argument(
        "--tls",
        action="store_true",
        help="of a head: connections between machines are encrypted; who joins knows it from the token",
    )
    parser.add_argument("--num-cpus", type=amount, help="logical processors (default: those of the machine)")
    parser.add_argument("--num-gpus", type=amount, help="logical GPUs (default: those of the machine)")
    parser.add_argument(
        "--resources", type=_mapping, default={}, help='further resources: {"name": 1}, or name=1,name=2'
    )
    parser.add_argument("--labels", type=_labels, default={}, help="labels: name=value,name=value")
    parser.add_argument("--object-store-memory", type=amount, default=0, help="size of the object store in bytes")
    parser.add_argument(
        "--memory", type=amount, help="the resource of this name, in bytes (default: 70%% of what is free)"
    )
    parser.add_argument(
        "--object-spilling-directory",
        default="",
        metavar="DIR",
        help="where objects go that find no room (default: into the session's directory)",
    )
    parser.add_argument("--node-name", default="", help="a name for people")
    parser.add_argument(
        "--autoscaling-config",
        metavar="FILE",
        help="of a head: JSON or YAML that says which nodes it starts and ends by itself (see docs/cluster.md)",
    )
    parser.add_argument(
        "--include-dashboard",
        type=_truth,
        default=True,
        metavar="BOOL",
        help="of a head: take jobs and answer REST over HTTP; what serves is started when somebody connects",
    )
    parser.add_argument("--dashboard-host", default="127.0.0.1", metavar="IP", help="where that listens")
    parser.add_argument(
        "--dashboard-port", type=port, help=f"the same (default: {_WEB_PORT}, or one of the next that is free; 0: any)"
    )
    parser.add_argument(
        "--tracing-startup-hook",
        type=_hook,
        metavar="MODULE:FUNCTION",
        help="sets OpenTelemetry up in the programs that join this node, and in their workers (see docs/tracing.md)",
    )
    parser.add_argument("--temp-dir", type=_no_place, help=argparse.SUPPRESS)
    # Of Ray's, for scripts that pass them: here a node has one port, workers have none, and nobody is told of usage.
    for name in _PORTS_OF_RAY:
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--disable-usage-stats", action="store_true", help=argparse.SUPPRESS)


def _no_place(text: str) -> None:
    raise argparse.ArgumentTypeError(
        f"whoever looks for the session would have to know: set {_ROOT_VARIABLE}={text} instead, here and for all "
        "commands and programs that use it"
    )


def _mapping(text: str) -> dict[str, float]:
    """Of JSON, or of name=1,name=2, which needs no quotes in a shell."""
    try:
        if text.lstrip().startswith("{"):
            parsed = json.loads(text)
        else:
            parsed = dict(part.split("=") for part in text.split(",") if part)
        return {str(name): float(number) for name, number in parsed.items()}
    except (ValueError, AttributeError, TypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object of numbers, nor name=1,name=2") from None


def _hook(text: str) -> str:
    module, colon, function = text.partition(":")
    if not (module and colon and function):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form MODULE:FUNCTION")
    return text


def _truth(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return words[text.lower()]


def _labels(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if any(not name or not equals for name, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value,name=value")
    return {name: value for name, _, value in pairs}


# --------------------------------------------------------------------------------------------------------------- start


def _start(arguments: argparse.Namespace) -> int:
    if arguments.port is not None and not arguments.head:
        raise ValueError("--port is of a head; a node that joins listens wherever a port is free")
    if arguments.ray_client_server_port is not None and not arguments.head:
        raise ValueError("--ray-client-server-port is of a head: programs from outside come to its cluster there")
    if arguments.autoscaling_config and not arguments.head:
        raise ValueError("--autoscaling-config is of a head: it starts the nodes of its cluster")
    if arguments.tls and not arguments.head:
        raise ValueError("--tls is of a head: the token of its cluster says so to all who join")
    if arguments.dashboard_port is not None and not arguments.head:
        raise ValueError("--dashboard-port is of a head: it takes the jobs of its cluster")
    if not arguments.block:
        _tell(arguments, *launched(arguments))
        return 0
    # Before there is anything to be stopped.
    signal.signal(signal.SIGTERM, _interrupt)
    session: dict[str, Any] = {}
    try:
        session, address = launched(arguments)
        _tell(arguments, session, address)
        select.select([os.pidfd_open(session["raylet_pid"])], [], [])
        return 1
    finally:
        if session:
            _processes.stop_node(session["session_dir"])


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def launched(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Starts a node.

    Args:
        arguments: What `start` takes.

    Returns:
        Its session, with the node's id in hex as "node_id", and the address of the control store; when the node is
        part of the cluster.

    Raises:
        ConnectionError: It has not started, or the cluster does not take it.
        ValueError: No node has such resources, or there is no such directory.
    """
    _init_options.check_resources(arguments.resources)
    if arguments.object_store_memory:
        _init_options.check_object_store_memory(arguments.object_store_memory)
    with _joining.token_file(arguments.address, arguments.token_file) as token_path:
        address = None if arguments.head else _joining.numeric(arguments.address)
        if address is not None:
            _joining.look_at(address, token_path)
        return _launch(arguments, address, token_path)


def _tell(arguments: argparse.Namespace, session: dict[str, Any], address: str) -> None:
    directory = session["session_dir"]
    if arguments.format != "default":
        told = {
            "address": address,
            "session_dir": directory,
            "token_file": f"{directory}/token",
            "web_address": _processes.web_address(directory) or None,
        }
        print(_output.structured(told, arguments.format), flush=True)
        return
    print(f"Local node IP: {arguments.host}\n\nRay runtime started.\n")
    if arguments.head:
        print(f"To add a node to this cluster, run there\n  ray_rs start --address={address} --token-file=FILE")
        print(f"with a copy of this file, which is the key to the cluster:\n  {directory}/token\n")
    if arguments.head:
        print(
            "To connect a program from anywhere, with a copy of that file, whose text is in "
            + _joining.TOKEN_VARIABLE
            + ":"
        )
        print(f"  ray.init('ray://{address}')\n")
    print("To connect a program on this machine:\n  import ray_rs as ray\n  ray.init(address='auto')\n")
    web = _processes.web_address(directory)
    if arguments.head and web:
        print("To see the cluster in a browser, open what this prints:\n  ray_rs dashboard\n")
        print(f"To submit a job (the service starts when it is asked: http://{web}):")
        print(f"  RAY_API_SERVER_ADDRESS='http://{web}' ray_rs job submit --working-dir . -- python my_script.py\n")
    print("To see the cluster:\n  ray_rs status\nTo stop what was started on this machine:\n  ray_rs stop", flush=True)


@contextlib.contextmanager
def token_file(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Where a cluster is that is asked, and a file with its token.

    Args:
        arguments: With `address` (None: the newest session of this machine) and `token_file`.

    Yields:
        Address of its control store, and the path of the file.

    Raises:
        ConnectionError: There is no such session, or no token is known.
    """
    if arguments.address is None:
        from ray_rs.util.state._rows import session_directory

        directory = session_directory(None)
        if os.path.exists(f"{directory}/gcs_address"):
            with open(f"{directory}/gcs_address") as file:
                yield file.read().strip(), f"{directory}/token"
            return
    with _joining.token_file(arguments.address, arguments.token_file) as path:
        yield _joining.numeric(arguments.address), str(path)


def _launch(arguments: argparse.Namespace, address: str | None, token_path: str | None) -> tuple[dict[str, Any], str]:
    """Starts the node; returns its session and the address of the control store when it is part of the cluster."""
    node_id = os.urandom(28).hex()
    number = _DEFAULT_PORT if arguments.port is None else arguments.port
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    cluster: dict[str, Any] = {
        "driver_pid": None,
        "listen": f"{host}:0",
        "node_ip": arguments.host,
        "node_id": node_id,
        "node_name": arguments.node_name,
    }
    if address is None:
        cluster |= {"gcs_listen": f"{host}:{number}", "token_path": token_path}
        if arguments.ray_client_server_port is not None:
            cluster["client_listen"] = f"{host}:{arguments.ray_client_server_port}"
        if arguments.tls:
            cluster["tls"] = True
        if arguments.include_dashboard:
            cluster |= _processes.web_options(
                _joining.numeric(f"{arguments.dashboard_host}:0"), arguments.dashboard_port
            )
        if arguments.autoscaling_config:
            cluster["autoscaling"] = _autoscaling.read(arguments.autoscaling_config)
    else:
        cluster["join"] = {"gcs_address": address, "token_path": token_path}
    try:
        session = _processes.launch_head(
            num_cpus=_processes.cpu_count() if arguments.num_cpus is None else arguments.num_cpus,
            num_gpus=_processes.gpu_count() if arguments.num_gpus is None else arguments.num_gpus,
            resources=arguments.resources,
            memory=arguments.memory,
            spill_directory=_init_options.spill_directory(arguments.object_spilling_directory),
            object_store_memory=arguments.object_store_memory or _processes.object_store_bytes(),
            labels=arguments.labels,
            driver_config=None,
            **cluster,
        )
    except RuntimeError as error:
        raise ConnectionError(f"The node did not start: {error}") from None
    try:
        if arguments.tracing_startup_hook:
            with open(f"{session['session_dir']}/tracing_startup_hook", "w") as file:
                file.write(arguments.tracing_startup_hook)
        gcs_address = _wait_until_part(session, node_id, address)
        if arguments.dashboard_port is not None and not _processes.web_address(session["session_dir"]):
            words = _joining.last_words(session["session_dir"], ["gcs"])
            raise ConnectionError(f"The web service can't listen on port {arguments.dashboard_port}. {words}")
        return {**session, "node_id": node_id}, gcs_address
    except BaseException:
        _processes.stop_node(session["session_dir"])
        raise


def _wait_until_part(session: dict[str, Any], node_id: str, address: str | None) -> str:
    directory = session["session_dir"]
    # A head is asked on its own socket.
    place = address or f"{directory}/sockets/gcs"
    daemons = [(name, session[f"{name}_pid"]) for name in ("gcs", "raylet") if session[f"{name}_pid"]]
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        ended = [name for name, pid in daemons if not _processes.is_running(pid)]
        if ended:
            raise ConnectionError(f"The node did not start. {_joining.last_words(directory, ended)}")
        with contextlib.suppress(ConnectionError):
            nodes = _processes.list_nodes(place, f"{directory}/token")
            if any(node["node_id"] == node_id and node["alive"] for node in nodes):
                break
        if time.monotonic() > deadline:
            words = _joining.last_words(directory, [name for name, _ in daemons])
            raise ConnectionError(f"The node was no part of the cluster after {_START_LIMIT_S} s. {words}")
        time.sleep(_POLL_S)
    with open(f"{directory}/gcs_address") as file:
        return file.read().strip()


# ---------------------------------------------------------------------------------------------------------------- stop


def _stop(arguments: argparse.Namespace) -> int:
    # Those of programs end with their programs. Joined nodes first, so that they can say goodbye.
    ours = [session for session in _processes.living_sessions() if session["driver_pid"] is None]
    ours.sort(key=lambda session: session["gcs_pid"] != 0)
    for session in ours:
        _processes.stop_node(session["session_dir"])
    text = f"Stopped {len(ours)} node{'s' if len(ours) > 1 else ''}."
    stopped = [session["session_dir"] for session in ours]
    _output.say(
        text if ours else "Did not find any node that `ray_rs start` has started.",
        {"stopped": stopped},
        arguments.format,
    )
    return 0
