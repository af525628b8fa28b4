"""What the documentation site is told about functions that a stub has as overloads only.

A stub has no implementation that the overloads would belong to, so Griffe, which reads the sources for the site, knows
no function of that name. Here the overload with the docstring becomes it, and the site shows the signatures of all.
"""

from __future__ import annotations

from typing import Any

import griffe


class OverloadsOfStubs(griffe.Extension):
    """Makes a function of overloads that have no implementation."""

    def on_module(self, *, mod: griffe.Module, **_kwargs: Any) -> None:
        for name, overloads in mod.overloads.items():
            if name in mod.members or not overloads:
                continue
            described = next((each for each in overloads if each.docstring), overloads[-1])
            described.overloads = overloads
            mod.set_member(name, described)
