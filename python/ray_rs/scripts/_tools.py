"""`timeline` and `metrics`."""

from __future__ import annotations

import argparse
import datetime
from typing import Any

from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format, port
from ray_rs.scripts._state import add_common

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the commands.

    Args:
        commands: What `argparse` calls subparsers.
    """
    timeline = commands.add_parser("timeline", help="write a trace of tasks for chrome://tracing or ui.perfetto.dev")
    timeline.add_argument("-o", "--output", help="the file (default: ray-timeline-<time>.json in this directory)")
    add_format(timeline)
    add_common(timeline)
    timeline.set_defaults(run=_timeline)
    metrics = commands.add_parser("metrics", help="print metrics in Prometheus' format, or serve them")
    metrics.add_argument(
        "--serve", type=port, metavar="PORT", help="serve them on 127.0.0.1 until interrupted; 0: any port"
    )
    add_common(metrics)
    metrics.set_defaults(run=_metrics)


def _timeline(arguments: argparse.Namespace) -> int:
    from ray_rs import _timeline

    path = arguments.output or f"ray-timeline-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}.json"
    # Nothing is written unless a session answers.
    pieces = iter(_timeline.text_of(arguments.address))
    first = next(pieces, "")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines([first])
        file.writelines(pieces)
    _output.say(f"Trace file written to {path}.", {"path": path}, arguments.format)
    return 0


def _metrics(arguments: argparse.Namespace) -> int:
    from ray_rs import _prometheus

    if arguments.serve is None:
        print(_prometheus.text_of(arguments.address, arguments.timeout), end="")
        return 0
    return _serve(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    """Answers whoever may reach this machine's loopback, so only while it is asked for."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from ray_rs import _prometheus
    from ray_rs.util.state.exception import RayStateApiException

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                return self.send_error(404)
            try:
                body = _prometheus.text_of(arguments.address, arguments.timeout).encode()
            except RayStateApiException as error:
                return self.send_error(503, str(error).splitlines()[0])
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", arguments.serve), Handler) as server:
        print(f"Serving metrics on http://127.0.0.1:{server.server_port}/metrics", flush=True)
        server.serve_forever()
    return 0
