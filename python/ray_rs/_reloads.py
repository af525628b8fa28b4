"""Modules that were loaded anew, by `importlib.reload` or IPython's `%autoreload`.

Functions of modules travel by name, so a worker that has imported a module would run what stood in it then. When a
driver reloads one, its functions are pickled once more at their next call, together with the list of what was reloaded;
a worker that unpickles them reloads the same modules first.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from ray_rs import _core

__all__ = ["follow", "newest", "reloaded", "watch"]

# Name of a module -> when it was last reloaded, by the clock of the driver that did; in that order.
reloaded: dict[str, int] = {}


class _Watcher:
    """Is asked for every module that is imported; only `reload` says which module there is already."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if target is not None:
            _note(name)


_watcher = _Watcher()


def _note(name: str) -> None:
    reloaded.pop(name, None)
    reloaded[name] = time.time_ns()
    _core.redefine()


def watch() -> None:
    """Takes notice of reloads in this process from now on."""
    if _watcher in sys.meta_path:
        return
    sys.meta_path.insert(0, _watcher)
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        _Autoreload(shell)


class _Autoreload:
    """Looks before each cell at what `%autoreload` has changed: it mends functions in place where it can, without
    `reload`."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._seen: dict[str, float] | None = None
        self.before_cell()

    def before_cell(self, _info: Any = None) -> None:
        events = self._shell.events
        if self._seen is not None:
            events.unregister("pre_run_cell", self.before_cell)
        times = self._times()
        for name in [name for name, when in times.items() if (self._seen or times).get(name, when) != when]:
            _note(name)
        self._seen = times
        events.register("pre_run_cell", self.before_cell)  # anew, so that it comes after `%autoreload`'s own

    def _times(self) -> dict[str, float]:
        """When each module was changed that `%autoreload` has loaded; none when that is not in use."""
        magics = self._shell.magics_manager.registry.get("AutoreloadMagics")
        return dict(getattr(getattr(magics, "_reloader", None), "modules_mtimes", {}))


def newest() -> int:
    """Changes when something was reloaded."""
    return next(reversed(reloaded.values()), 0)


def follow(others: dict[str, int]) -> None:
    """Reloads, in a worker, what its driver has reloaded since this process imported it.

    Raises:
        Exception: What a module raises while it is loaded; it is tried again with the next task.
    """
    for name, when in others.items():
        if reloaded.get(name, 0) >= when:
            continue
        module = sys.modules.get(name)
        if module is not None:
            importlib.invalidate_caches()
            importlib.reload(module)
        reloaded.pop(name, None)
        reloaded[name] = when
