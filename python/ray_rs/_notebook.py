"""What a notebook shows of references, handles and the session: tables, made without waiting; and that what tasks of a
cell have printed stands under it."""

from __future__ import annotations

import sys
from typing import Any

from ray_rs import _core, _logs

__all__ = ["handle_as_html", "html_table", "ref_as_html", "watch_cells"]

# Seconds at the end of a cell for lines that workers have printed: usually a few milliseconds.
_LAST_LINES = 0.5


def ref_as_html(self: Any) -> str:
    """What a notebook shows: what is known without waiting. Holds nothing, and an error still counts as unseen."""
    known = self._glance()
    rows = {"Reference": self.hex(), "State": "pending" if known is None else "failed" if known[0] else "ready"}
    if known is not None:
        rows["Size"] = f"{known[1]:,} bytes"
    standing = None if known is not None else self._standing()
    if standing is not None:
        rows["Task"] = standing[0]
        rows["Age"] = f"{standing[1]:.1f} s"
    if site := self.call_site():
        rows["Made at"] = site
    return html_table(rows)


def handle_as_html(self: Any) -> str:
    """What a notebook shows of an actor's handle."""
    descriptor = self._ray_descriptor
    methods = [name for name in descriptor.method_names if not name.startswith("__")]
    return html_table({"Actor": descriptor.class_name, "Id": self._actor_id.hex(), "Methods": ", ".join(methods)})


def html_table(rows: dict[str, str]) -> str:
    """Rows with a heading each, for a notebook."""
    import html

    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def watch_cells() -> None:
    """In IPython, shows at the end of each cell what was printed till then, and what was held back of it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and _after_cell not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", _after_cell)


def _after_cell(_result: Any = None) -> None:
    if _core.is_initialized():
        _core.flush_logs(_LAST_LINES)
        _logs.flush()
