"""What keeps a value from being pickled: `inspect_serializability`."""

from __future__ import annotations

from typing import Any

from ray_rs import _serialization

__all__ = ["FailureTuple", "inspect_serializability"]


class FailureTuple:
    """Something that can't be pickled, though all that it holds can be.

    Attributes:
        obj: The object.
        path: Names of variables, attributes and items that lead to it.
        parent: What holds it; None for the value that was asked about.
    """

    def __init__(self, obj: Any, path: tuple[str, ...], parent: Any) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent

    def __repr__(self) -> str:
        name = self.path[-1] if self.path else "unknown"
        return f"FailTuple({name} [path={' -> '.join(self.path)}, obj={self.obj!r}, parent={self.parent!r}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: Any = None
) -> tuple[bool, set[FailureTuple]]:
    """Says whether a value can be passed to tasks and actors, and what in it is at fault.

    Args:
        base_obj: The value: a function, a class, an object.
        name: What to call it in the report.
        depth: How many steps to go inside.
        print_file: Where the report is printed; `sys.stdout` when None.

    Returns:
        Whether it can be pickled, and the objects that keep it from it.

    Example:
        >>> lock = threading.Lock()
        >>> ok, failures = inspect_serializability(lambda: lock, name="task")
        >>> ok, {failure.path for failure in failures}
        (False, {('task', 'lock')})
    """
    report = [f"Checking Serializability of {_serialization._short(base_obj)}"]
    search = _Search(report)
    search.look(base_obj, (name,) if name else (), None, depth)
    rule = "=" * min(len(report[0]), 100)
    lines = [rule, report[0], rule, *report[1:]]
    if search.failures:
        lines += [rule, "These were found to be non-serializable; there may be others:", ""]
        lines += [f"\t{failure!r}" for failure in search.failures]
        lines += [
            "",
            "Create such objects inside the task or actor that uses them, or tell how they are pickled "
            "(ray.util.register_serializer, or a __reduce__ method of their class).",
            rule,
        ]
    print("\n".join(lines), file=print_file)
    return not search.failures, set(search.failures)


class _Search:
    """Goes through a value, and remembers what it has seen."""

    def __init__(self, report: list[str]) -> None:
        self.failures: list[FailureTuple] = []
        self._report = report
        # Whether it can't be pickled, by id; with the object, so that the id stays its own.
        self._fails: dict[int, tuple[bool, Any]] = {}

    def look(self, obj: Any, path: tuple[str, ...], parent: Any, depth: int, indent: str = "") -> bool:
        """Reports on `obj` and what it holds; returns whether it can't be pickled."""
        known = self._fails.get(id(obj))
        if known is not None:
            return known[0]
        error = _serialization._failure(obj)
        self._fails[id(obj)] = (error is not None, obj)
        if error is None:
            return False
        self._report.append(f"{indent}!!! FAIL serialization: {_serialization._text(error)}")
        at_fault = False
        if depth > 0:
            for step, child in _serialization._children(obj):
                before = len(self._report)
                self._report.append(f"{indent}  {step}: {_serialization._short(child)}")
                is_new = id(child) not in self._fails
                if self.look(child, (*path, _name(step)), obj, depth - 1, indent + "    "):
                    at_fault = True
                if not is_new or len(self._report) == before + 1:
                    del self._report[before:]
        if not at_fault:
            self.failures.append(FailureTuple(obj, path, parent))
        return True


def _name(step: str) -> str:
    """ "lock" of "closure variable 'lock' of task", "guard" of ".guard"; an item keeps its brackets."""
    if step[0] in ".[":
        return step.removeprefix(".")
    return step.split("'")[1] if step.count("'") >= 2 else step
