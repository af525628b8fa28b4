"""`python -m ray_rs script.py [arguments]`: runs a program that was written for Ray on ray_rs, without editing it."""

from __future__ import annotations

import io
import os
import sys
from types import ModuleType

_USAGE = """\
usage: python -m ray_rs script.py [arguments]
       python -m ray_rs -m module [arguments]

Runs a Python program in which `import ray` gives ray_rs, here and in the workers.
"""


def main(arguments: list[str]) -> int:
    """Runs the program.

    Args:
        arguments: What follows `python -m ray_rs`.

    Returns:
        Exit status; not 0 when the arguments make no sense.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        import ray_rs

        print(f"ray_rs {ray_rs.__version__}")
        return 0
    is_module = arguments[0] == "-m"
    if (is_module and len(arguments) < 2) or (arguments[0].startswith("-") and not is_module):
        print(_USAGE, end="", file=sys.stderr)
        return 2
    import ray_rs

    ray_rs.install_as_ray()
    if is_module:
        import runpy

        sys.argv = arguments[1:]
        if arguments[1] == "pytest":
            # The fixtures of Ray's own tests, for files that have no `conftest.py` beside them.
            sys.argv[1:1] = ["-p", "ray_rs.tests.conftest"]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        _run_script(arguments[0])
    return 0


def _run_script(path: str) -> None:
    """Runs a file as Python would. Its module stays `__main__` to the end, as what runs at exit may look it up."""
    absolute = os.path.abspath(path)
    try:
        with io.open_code(absolute) as file:
            source = file.read()
    except OSError as error:
        sys.exit(f"python -m ray_rs: can't open file {path!r}: [Errno {error.errno}] {error.strerror}")
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    program = ModuleType("__main__")
    program.__file__ = absolute
    program.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = program
    exec(compile(source, absolute, "exec", dont_inherit=True), program.__dict__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
