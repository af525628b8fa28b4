"""A hook that needs no collector: spans go to files of this machine, one line of JSON each.

`ray_rs.init(_tracing_startup_hook="ray_rs.util.tracing.setup_local_tmp_tracing:setup_tracing")`
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["DIRECTORY", "setup_tracing"]

# Where a file of each process lies, named by the number of the process.
DIRECTORY = "/tmp/spans"


def setup_tracing() -> None:
    """Sets OpenTelemetry up such that each span is written when it ends, to `/tmp/spans/PID.txt`.

    Raises:
        ImportError: OpenTelemetry's SDK is not installed.
        OSError: The file cannot be made.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    os.makedirs(DIRECTORY, exist_ok=True)
    # Open as long as the process lives. Texts of errors are in it: for its owner only, and no link of another user's.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(f"{DIRECTORY}/{os.getpid()}.txt", flags, 0o600)
    file = os.fdopen(descriptor, "w")
    exporter = ConsoleSpanExporter(out=file, formatter=_line)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _line(span: Any) -> str:
    return f"{span.to_json(indent=None)}\n"
