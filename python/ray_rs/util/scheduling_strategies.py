"""Where a task or actor runs: the objects that the option `scheduling_strategy` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_rs import _core
from ray_rs._scheduling import Rule, rules_of

if TYPE_CHECKING:
    from ray_rs.util.placement_group import PlacementGroup

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


class PlacementGroupSchedulingStrategy:
    """Runs in a placement group.

    Attributes:
        placement_group: The group.
        placement_group_bundle_index: The bundle; -1: any.
        placement_group_capture_child_tasks: What the task or actor makes runs in the group as well, unless that says
            otherwise. None: as it is where the call is made.

    Example:
        >>> pg = ray.util.placement_group([{"CPU": 1}])
        >>> ref = f.options(scheduling_strategy=PlacementGroupSchedulingStrategy(pg)).remote()
    """

    def __init__(
        self,
        placement_group: PlacementGroup,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def __repr__(self) -> str:
        return f"PlacementGroupSchedulingStrategy({self.placement_group!r}, {self.placement_group_bundle_index})"


class NodeAffinitySchedulingStrategy:
    """Runs on one node.

    Attributes:
        node_id: The node, as hexadecimal digits.
        soft: Another will do when that one is gone or could never run it; else the call fails.

    Raises:
        ValueError: No id of a node, or a private flag without the `soft` that it needs.
    """

    def __init__(
        self,
        node_id: str | _core.NodeID,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        text = node_id if isinstance(node_id, str) else node_id.hex()
        try:
            self.node_id = _core.NodeID.from_hex(text).hex()
        except ValueError as error:
            raise ValueError(f"Invalid node_id {text!r}: {error}") from None
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable cannot be set when soft is False.")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable cannot be set when soft is True.")
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


class _Test:
    _test = 0

    def __init__(self, *values: str) -> None:
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"The value of a label must be a string, not {type(value).__name__}.")
        self.values = list(values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_Test):
    """The label has one of these values."""

    _test = 0

    def __init__(self, *values: str) -> None:
        if not values:
            raise ValueError("In() needs at least one value.")
        super().__init__(*values)


class NotIn(_Test):
    """The label has none of these values, or is not there."""

    _test = 1

    def __init__(self, *values: str) -> None:
        if not values:
            raise ValueError("NotIn() needs at least one value.")
        super().__init__(*values)


class Exists(_Test):
    """The label is there."""

    _test = 2

    def __init__(self) -> None:
        super().__init__()


class DoesNotExist(_Test):
    """The label is not there."""

    _test = 3

    def __init__(self) -> None:
        super().__init__()


class NodeLabelSchedulingStrategy:
    """Runs on a node with certain labels.

    Attributes:
        hard: Labels, each with the test that a node must pass; without such a node it waits.
        soft: The same of nodes that are preferred.

    Raises:
        ValueError: Neither is given, or one is no dictionary of labels.

    Example:
        >>> strategy = NodeLabelSchedulingStrategy(hard={"zone": In("a", "b")})
    """

    def __init__(self, hard: dict[str, Any] | None, *, soft: dict[str, Any] | None = None) -> None:
        self.hard = self._checked("hard", hard)
        self.soft = self._checked("soft", soft)
        if not self.hard and not self.soft:
            raise ValueError("The `hard` and `soft` parameter of NodeLabelSchedulingStrategy cannot both be empty.")

    @staticmethod
    def _checked(which: str, labels: dict[str, Any] | None) -> dict[str, Any]:
        if labels is None:
            return {}
        if not isinstance(labels, dict):
            raise ValueError(f"The {which} parameter must be a map (e.g. {{'zone': In('a')}}), not {type(labels)}.")
        for key, test in labels.items():
            if not isinstance(key, str) or not key:
                raise ValueError(f"The keys of {which} must be non-empty strings, not {key!r}.")
            if not isinstance(test, _Test):
                raise ValueError(f"The label {key!r} needs one of In(), NotIn(), Exists() and DoesNotExist().")
            rules_of({key: ""})
        return dict(labels)

    @staticmethod
    def _rules(labels: dict[str, Any]) -> list[Rule]:
        return [(key, test._test, test.values) for key, test in labels.items()]

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy({self.hard!r}, soft={self.soft!r})"
