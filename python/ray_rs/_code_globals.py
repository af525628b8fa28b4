"""Which globals a function's code names, found without disassembling it.

cloudpickle asks `dis`, whose instructions are objects with lines, jumps and descriptions: two thirds of the time that a
small function takes. It remembers the answer for each code object, so here it is given the answer beforehand.
"""

from __future__ import annotations

import opcode
import sys
import types
from typing import Any

import cloudpickle

__all__ = ["global_names", "remember"]

_LOAD = opcode.opmap["LOAD_GLOBAL"]
_OTHERS = (opcode.opmap["STORE_GLOBAL"], opcode.opmap["DELETE_GLOBAL"])
_EXTENDED = opcode.EXTENDED_ARG
# The lowest bit of what is loaded says something else.
_SHIFT = 1 if sys.version_info >= (3, 11) else 0

# Code object -> dict with the names as its keys. Not public: another version may have none, and is left alone.
_known: Any = getattr(sys.modules[cloudpickle.Pickler.__module__], "_extract_code_globals_cache", None)


def global_names(code: types.CodeType) -> dict[str, None]:
    """The globals that the code, or a function in it, reads, sets or deletes, in the order of its instructions."""
    names: dict[str, None] = {}
    raw = code.co_code
    extension = 0
    for at in range(0, len(raw), 2):
        operation = raw[at]
        if operation == _EXTENDED:
            extension = (extension | raw[at + 1]) << 8
            continue
        if operation == _LOAD:
            names[code.co_names[(extension | raw[at + 1]) >> _SHIFT]] = None
        elif operation in _OTHERS:
            names[code.co_names[extension | raw[at + 1]]] = None
        extension = 0
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            names.update(global_names(constant))
    return names


def remember(code: types.CodeType) -> None:
    """Tells cloudpickle what it would find out."""
    if _known is not None and code not in _known:
        _known[code] = global_names(code)
