"""`import ray` means ray_rs, for programs and libraries that can't be edited.

`sys.modules["ray"]` is the package itself, and a finder in front of all others answers for `ray.*` with the very
modules of `ray_rs.*`: one module object under two names, so that a class is the same by whichever name it was imported.
Nothing is copied, and nothing changed but `ray_rs.__version__`, which libraries compare with Ray's.

Importing `ray_rs.as_ray` installs this, which is all that a worker has to do: its zygote imports that module when the
driver did (`_processes.driver_config`).
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.metadata import Distribution

__all__ = ["RAY_VERSION", "install_as_ray"]

# The version of Ray whose interface ray_rs follows; what `ray.__version__` says once this is installed.
RAY_VERSION = "2.60.0"

_OWN = "ray_rs"

# Built on Ray Core, by others than Ray Core.
_LIBRARIES = {
    "air": "Ray AIR",
    "data": "Ray Data",
    "llm": "Ray LLM",
    "rllib": "RLlib",
    "serve": "Ray Serve",
    "train": "Ray Train",
    "tune": "Ray Tune",
}
# Libraries on Ray Core import a name from it that they may never use: `ray_rs.data`.
_IS_THERE_TO_REFUSE = "data"

_NO_WORKFLOWS = "Ray has dropped workflows; its last version with them is 2.47."


class WorkflowsDroppedError(RuntimeError, AttributeError):
    """Somebody asks for `ray.workflow`: a `RuntimeError` as of Ray, and `hasattr` says that there is none."""


def no_attribute(name: str) -> AttributeError:
    """The error for a name that `ray_rs` does not have.

    Args:
        name: Of the attribute.

    Returns:
        The error, with a reason where there is one.
    """
    if name == "workflow":
        return WorkflowsDroppedError(f"ray.workflow is not there: {_NO_WORKFLOWS}")
    text = f"module {_OWN!r} has no attribute {name!r}"
    if name in _LIBRARIES:
        text += f": {_LIBRARIES[name]} is a library on top of Ray Core, and ray_rs is Ray Core alone"
    return AttributeError(text, name=name)


def install_as_ray() -> None:
    """Makes `import ray`, `from ray.util import ActorPool` and so on give ray_rs, here and in the workers.

    Call it before anything imports `ray`, and before `init`: workers of a session that runs already don't learn of it.
    Calling it again changes nothing. `python -m ray_rs script.py` and the pytest plugin `-p ray_rs.as_ray` do the same
    for programs that can't be edited at all.

    Raises:
        RuntimeError: Ray itself has been imported in this process.
    """
    import ray_rs.as_ray  # noqa: F401 - importing it is what installs


def _install() -> None:
    import ray_rs

    present = sys.modules.get("ray")
    if present is ray_rs:
        return
    if present is not None:
        raise RuntimeError(
            f"Ray itself is imported in this process already, from {getattr(present, '__file__', None)}. Call "
            "ray_rs.install_as_ray() before anything imports ray, or run the program with `python -m ray_rs script.py`."
        )
    sys.modules["ray"] = ray_rs
    _name_what_is_loaded()
    sys.meta_path.insert(0, _Finder)
    ray_rs.__version__ = RAY_VERSION
    if ray_rs.is_initialized() and ray_rs._core.process_info()["is_driver"]:
        import warnings

        warnings.warn(
            "install_as_ray() was called after ray_rs.init(): `import ray` works here, but not in the workers of this "
            "session.",
            stacklevel=3,
        )


def _name_what_is_loaded() -> None:
    """Enters loaded modules of ray_rs under their other names.

    The import system writes what it has imported into the parent module. `ray.util.placement_group` is a function
    there, that a module of the same name must not replace when something is imported from it.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_OWN}."):
            sys.modules.setdefault(f"ray{name[len(_OWN) :]}", module)


class _Finder:
    """Answers for `ray.*` what `ray_rs.*` holds."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        if not rest or package not in ("ray", _OWN):
            return None
        if package == _OWN:
            # `from ray import tune` asks for `ray_rs.tune`, by the name that the module has for itself.
            if rest in _LIBRARIES and rest != _IS_THERE_TO_REFUSE and _is_import(sys._getframe(2)):
                raise _missing(f"ray.{rest}")
            return None
        from importlib.util import find_spec

        try:
            found = find_spec(f"{_OWN}.{rest}")
        except ModuleNotFoundError:  # of a parent
            found = None
        if found is not None:
            loader: Any = _Loader(f"{_OWN}.{rest}")
            return ModuleSpec(name, loader, is_package=found.submodule_search_locations is not None)
        if _is_import(sys._getframe(2)):
            raise _missing(name)
        return None

    @staticmethod
    def invalidate_caches() -> None:
        """There are none."""

    @staticmethod
    def find_distributions(context: Any) -> Iterable[Distribution]:
        """For `importlib.metadata`: its `version("ray")` and its list of all tell libraries whether there is a Ray."""
        if context.name not in ("ray", None):
            return []
        from importlib.metadata import Distribution

        class Ray(Distribution):
            def read_text(self, filename: str) -> str | None:
                if filename not in ("METADATA", "PKG-INFO"):
                    return None
                return f"Metadata-Version: 2.1\nName: ray\nVersion: {RAY_VERSION}\n"

            def locate_file(self, path: Any) -> Any:
                raise FileNotFoundError(f"{path}: `ray` is ray_rs under another name and has no files of its own")

        return [Ray()]


class _Loader:
    """Gives a module of ray_rs, loaded under its own name, as what was asked for."""

    def __init__(self, own_name: str) -> None:
        self._own_name = own_name
        self._own_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        from importlib import import_module

        module = import_module(self._own_name)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just written the other name's spec into the module.
        module.__spec__ = self._own_spec
        # Its submodules, if it has loaded any.
        _name_what_is_loaded()

    def get_code(self, name: str) -> Any:
        """For `runpy`: `python -m ray_rs -m ray.some.module`."""
        from importlib.util import find_spec

        spec = find_spec(self._own_name)
        return None if spec is None else spec.loader.get_code(self._own_name)  # type: ignore[union-attr]


def _is_import(caller: Any) -> bool:
    """Whether an import runs, and not `importlib.util.find_spec`, which libraries use to ask what there is.

    The first shall fail with a reason, the second shall be told that there is nothing. `caller` is the frame that
    called the import system's search.
    """
    return bool(caller.f_code.co_name == "_find_and_load_unlocked")


def _missing(name: str) -> ModuleNotFoundError:
    part = name.split(".")[1]
    if part in _LIBRARIES:
        text = (
            f"No module named '{name}': {_LIBRARIES[part]} is a library on top of Ray Core, and ray_rs, which stands "
            "for `ray` in this process, is Ray Core alone. What needs it has to run on Ray itself."
        )
    elif part == "workflow":
        text = f"No module named '{name}': {_NO_WORKFLOWS}"
    else:
        text = f"No module named '{name}': ray_rs, which stands for `ray` in this process, does not have it."
    return ModuleNotFoundError(text, name=name)
