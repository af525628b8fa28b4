"""`dashboard`: where the cluster's page is, with the key that lets a browser in."""

from __future__ import annotations

import argparse
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format

__all__ = ["add", "url_of"]


def add(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What `argparse` calls subparsers.
    """
    parser = commands.add_parser("dashboard", help="print the address of the cluster's page, which lets a browser in")
    parser.add_argument("--open", action="store_true", help="open it in a browser, too")
    parser.add_argument(
        "--address", help="which session: host:port or its directory (default: RAY_ADDRESS, the newest)"
    )
    add_format(parser)
    parser.set_defaults(run=_dashboard)


def url_of(address: str | None) -> str:
    """The address of a cluster's page. Whoever has it may do everything that the page can.

    Args:
        address: Of the session; this process's, else the newest one, when None.

    Returns:
        The address, with the key where browsers keep it to themselves.

    Raises:
        ConnectionError: The session has no web service on this machine.
        ServerUnavailable: There is no session.
    """
    from ray_rs import _processes
    from ray_rs.job_submission._client import key_of_token
    from ray_rs.util.state._rows import session_directory

    directory = session_directory(address)
    web = _processes.web_address(directory)
    if not web:
        raise ConnectionError(
            "The session has no web service on this machine: only a head has one, of `ray_rs start --head` or "
            "ray_rs.init(include_dashboard=True)."
        )
    host, _, port = web.rpartition(":")
    # All addresses of the machine: one that a browser on it can go to.
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    with open(f"{directory}/token") as file:
        return f"http://{host}:{port}/#key={key_of_token(file.read().strip())}"


def _dashboard(arguments: argparse.Namespace) -> int:
    url = url_of(arguments.address)
    _output.say(url, {"url": url}, arguments.format)
    if arguments.open:
        import webbrowser

        if not webbrowser.open(url):
            raise RuntimeError("No browser could be opened on this machine.")
    return 0
