"""`check-open-ports`: where the processes of this machine's sessions listen, and who can reach that."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ray_rs import _processes
from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format

__all__ = ["Port", "add", "open_ports"]

# The state of a socket that listens, in /proc/net/tcp.
_LISTENS = "0A"


@dataclass(frozen=True)
class Port:
    """Where a process listens.

    Attributes:
        host: Numeric address; 0.0.0.0 and :: are all of the machine.
        port: The number.
        is_reachable: From other machines, as far as no firewall is in between.
        pid: The process.
        process: Its title.
    """

    host: str
    port: int
    is_reachable: bool
    pid: int
    process: str


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser(
        "check-open-ports",
        help="where this machine's nodes and their workers listen, and whether other machines reach that",
        description="Looks at what the daemons and workers of this user's sessions on this machine listen on. Nobody "
        "outside is asked: what a firewall lets through is not known. Unix sockets are no ports.",
    )
    # Of Ray's, which asks before it sends the ports to a service.
    parser.add_argument("-y", "--yes", action="store_true", help=argparse.SUPPRESS)
    add_format(parser)
    parser.set_defaults(run=_check_open_ports)


def _check_open_ports(arguments: argparse.Namespace) -> int:
    sessions = _processes.living_sessions()
    if not sessions:
        raise ConnectionError("No session of this user runs on this machine.")
    ports = open_ports([session[f"{name}_pid"] for session in sessions for name in ("gcs", "raylet")])
    if arguments.format != "default":
        print(_output.structured([asdict(port) for port in ports], arguments.format))
        return 0
    if not ports:
        print("No process of a session listens on a port.")
        return 0
    rows = [
        (port.host, port.port, "other machines" if port.is_reachable else "this machine", port.pid, port.process)
        for port in ports
    ]
    print(_output.table(("host", "port", "reached from", "pid", "process"), rows))
    reachable = sum(port.is_reachable for port in ports)
    print(
        f"\n{reachable} of {len(ports)} can be reached from other machines, unless a firewall is in between."
        if reachable
        else "\nNone can be reached from other machines."
    )
    return 0


def open_ports(roots: list[int]) -> list[Port]:
    """What some processes and all that they have started listen on.

    Args:
        roots: Their pids; 0 is none.

    Returns:
        Sorted by port; a socket that several processes hold is that of the first of them.
    """
    found: dict[tuple[str, int], Port] = {}
    for pid in _with_children([pid for pid in roots if pid]):
        # It may end at any time.
        with contextlib.suppress(OSError):
            listening = dict(_listening(pid))
            for inode in _sockets(pid) & listening.keys():
                host, port = listening[inode]
                is_reachable = not ipaddress.ip_address(host).is_loopback
                found.setdefault((host, port), Port(host, port, is_reachable, pid, _title(pid)))
    return sorted(found.values(), key=lambda port: (port.port, port.host))


def _with_children(roots: list[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                children.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
    all_of_them = list(dict.fromkeys(roots))
    for pid in all_of_them:
        all_of_them += [child for child in sorted(children.get(pid, ())) if child not in all_of_them]
    return all_of_them


def _listening(pid: int) -> Iterator[tuple[int, tuple[str, int]]]:
    """By the socket's number, in the process's own network namespace."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/net/{name}") as file:
            for line in list(file)[1:]:
                cells = line.split()
                if cells[3] == _LISTENS:
                    host, _, port = cells[1].partition(":")
                    yield int(cells[9]), (_address(host), int(port, 16))


def _address(text: str) -> str:
    """Of words of four bytes in the machine's order, each as a number in hex."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    swapped = b"".join(word[::-1] if _IS_LITTLE else word for word in words)
    return str(ipaddress.ip_address(swapped))


_IS_LITTLE = sys.byteorder == "little"


def _sockets(pid: int) -> set[int]:
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    return inodes


def _title(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().replace(b"\0", b" ").decode(errors="replace").split()
    return words[0] if words else ""
