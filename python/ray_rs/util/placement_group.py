"""Placement groups: resources of one or several nodes, reserved all together."""

from __future__ import annotations

from typing import Any, Final

from ray_rs import _core

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

_STRATEGIES: Final = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_STATES: Final = ("PENDING", "PREPARED", "CREATED", "REMOVED", "RESCHEDULING")


class PlacementGroup:
    """A handle on a placement group; made by `placement_group`, and good in every process that it travels to.

    Attributes:
        id: Its id.
        bundle_specs: The resources of each bundle.
        bundle_count: How many there are.
        is_empty: It stands for no group.
    """

    def __init__(self, id: _core.PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """A handle that stands for no group."""
        return PlacementGroup(_core.PlacementGroupID.nil(), [])

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        return bool(self.id.is_nil())

    def ready(self) -> _core.ObjectRef[PlacementGroup]:
        """Gives a reference to the group itself, which is there when all of its resources are reserved.

        Returns:
            The reference; `get` on it raises `TaskPlacementGroupRemoved` if the group is removed first.

        Example:
            >>> ray.get(pg.ready(), timeout=10)
        """
        _connect()
        return _core.placement_group_ready(self.id.binary(), self)

    def wait(self, timeout_seconds: float | int = 30) -> bool:
        """Waits until all of its resources are reserved.

        Args:
            timeout_seconds: How long; a negative number: for ever.

        Returns:
            Whether they are.
        """
        _connect()
        timeout = None if timeout_seconds < 0 else float(timeout_seconds)
        return bool(_core.wait_placement_group(self.id.binary(), timeout))

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The resources of each bundle; ValueError when the group is not known any more."""
        if self.bundle_cache is None:
            _connect()
            known = _core.get_placement_group(self.id.binary())
            if known is None:
                raise ValueError(f"The placement group {self.id.hex()} is not known; it was probably removed.")
            self.bundle_cache = known["bundles"]
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self.bundle_specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self.bundle_cache)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: Any = None,
) -> PlacementGroup:
    """Asks for a placement group, and does not wait for it.

    Args:
        bundles: The resources of each bundle; a bundle lies on one node.
        strategy: `"PACK"` (the default; few nodes), `"SPREAD"` (many nodes), `"STRICT_PACK"` (one node) or
            `"STRICT_SPREAD"` (a node for each bundle).
        name: To find it by, with `get_placement_group`, in the namespace of the job.
        lifetime: None: it ends with the job (or the actor) that asks for it; `"detached"`: until it is removed.
        _soft_target_node_id: Where a STRICT_PACK goes if it can.
        bundle_label_selector: For each bundle the labels that its node must have.
        topology_strategy: Not supported.

    Returns:
        The group; `wait` and `ready` tell when its resources are reserved.

    Raises:
        ValueError: A bad argument, or a name that another group has.

    Example:
        >>> pg = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="PACK")
        >>> pg.wait(10)
        True
    """
    if strategy is not None and topology_strategy is not None:
        raise ValueError("Only one of `strategy` and `topology_strategy` can be specified.")
    if topology_strategy is not None:
        raise ValueError("`topology_strategy` is not supported.")
    strategy = "PACK" if strategy is None else strategy
    if strategy not in _STRATEGIES:
        raise ValueError(f"Invalid strategy {strategy!r}: `strategy` must be one of {list(_STRATEGIES)}.")
    wanted = _checked_bundles(bundles)
    if lifetime not in (None, "detached"):
        raise ValueError("placement group `lifetime` argument must be either `None` or 'detached'.")
    selectors = []
    if bundle_label_selector:
        from ray_rs._scheduling import rules_of

        if len(bundle_label_selector) != len(bundles):
            raise ValueError(
                f"Invalid bundle label selector {bundle_label_selector}. The length of `bundle_label_selector` should "
                "equal the length of `bundles`."
            )
        selectors = [rules_of(each) for each in bundle_label_selector]
    target = None
    if _soft_target_node_id is not None:
        if strategy != "STRICT_PACK":
            raise ValueError(
                "_soft_target_node_id currently only works with STRICT_PACK but the placement group has "
                f"strategy={strategy}."
            )
        target = _core.NodeID.from_hex(_soft_target_node_id).binary()
    _connect()
    id = _core.create_placement_group(
        wanted,
        _STRATEGIES.index(strategy),
        name=name or "",
        namespace=_core.process_info()["namespace"],
        detached=lifetime == "detached",
        soft_target_node=target,
        selectors=selectors,
    )
    return PlacementGroup(id, bundles)


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Gives a group's resources back, and ends the tasks and actors that run in it. Does not wait for that.

    Args:
        placement_group: The group; one that is gone already is no error.
    """
    assert placement_group is not None
    _connect()
    _core.remove_placement_group(placement_group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Finds a group by its name, in the namespace of the job.

    Args:
        placement_group_name: The name.

    Returns:
        The group.

    Raises:
        ValueError: There is none of that name.
    """
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    _connect()
    known = _core.get_placement_group(name=placement_group_name, namespace=_core.process_info()["namespace"])
    if known is None:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")
    return PlacementGroup(_core.PlacementGroupID(known["id"]), known["bundles"])


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Tells how a group stands, or all groups.

    Args:
        placement_group: The group; None: all.

    Returns:
        A dictionary of what is known of the group (empty if there is none), or one of such by their ids.
    """
    _connect()
    if placement_group is not None:
        known = _core.get_placement_group(placement_group.id.binary())
        return {} if known is None else _row(known)
    rows = (_row(known) for known in _core.list_placement_groups())
    return {row["placement_group_id"]: row for row in rows}


def get_current_placement_group() -> PlacementGroup | None:
    """Gives the group that the calling task or actor runs in.

    Returns:
        The group; None outside of one, as in a driver.
    """
    _connect()
    current = _core.current_placement_group()
    return None if current is None else PlacementGroup(current[0])


def _row(known: dict[str, Any]) -> dict[str, Any]:
    state = _STATES[known["state"]]
    scheduling = {"CREATED": "FINISHED", "REMOVED": "REMOVED"}.get(state)
    if scheduling is None:
        scheduling = "INFEASIBLE" if known["detail"] == "infeasible" else "QUEUED"
    return {
        "placement_group_id": known["id"].hex(),
        "name": known["name"],
        "bundles": dict(enumerate(known["bundles"])),
        "bundles_to_node_id": dict(enumerate(known["nodes"] or [""] * len(known["bundles"]))),
        "strategy": _STRATEGIES[known["strategy"]],
        "state": state,
        "stats": {"scheduling_state": scheduling},
    }


def _checked_bundles(bundles: Any) -> list[dict[str, float]]:
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    if not bundles:
        raise ValueError("The placement group `bundles` argument cannot contain an empty list")
    wanted = []
    for bundle in bundles:
        if (
            not isinstance(bundle, dict)
            or not all(isinstance(name, str) for name in bundle)
            or not all(isinstance(amount, (int, float)) for amount in bundle.values())
        ):
            raise ValueError(
                "Bundles must be a non-empty list of resource dictionaries. For example: "
                '`[{"CPU": 1.0}, {"GPU": 1.0, "custom": 2}]`. Got ' + f"{bundles} instead."
            )
        if not bundle or all(amount == 0 for amount in bundle.values()):
            raise ValueError(
                f"Bundles cannot be an empty dictionary or resources with only 0 values. Bundles: {bundles}"
            )
        if any(amount < 0 or amount != amount or amount == float("inf") for amount in bundle.values()):
            raise ValueError(f"The resources of bundles cannot be negative or infinite. Bundles: {bundles}")
        wanted.append({name: float(amount) for name, amount in bundle.items() if amount})
    return wanted


def _connect() -> None:
    if not _core.is_initialized():
        from ray_rs import api

        api._auto_init()
