"""What options say of the place where a task or actor runs, as the engine wants it.

A placement group is named by the resources that are asked for: `CPU` of bundle 2 is `CPU_group_2_<id>`, and
`CPU_group_<id>` of any bundle. All else travels as a strategy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ray_rs import _core

# (key, test, values); the test: 0 in, 1 not in, 2 exists, 3 does not exist.
Rule = tuple[str, int, list[str]]
# (kind, node id, soft, spill, fail, hard rules, preferred rules, selectors); the kind: 0 default, 1 spread, 2 node
# affinity, 3 node labels.
Strategy = tuple[int, bytes, bool, bool, bool, list[Rule], list[Rule], list[list[Rule]]]

BUNDLE_SHARE = 0.001

_NAME = r"[a-zA-Z0-9](?:[-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
# Compiled at first use, by `re` itself: four milliseconds that most programs need not wait for.
_KEY = rf"(?:[a-z0-9](?:[-.a-z0-9]{{0,251}}[a-z0-9])?/)?{_NAME}"
_VALUE = rf"(?:{_NAME})?"
_IN = r"(!?)in\((.*)\)"
_GROUPED = r"(.+)_group_(?:\d+_)?[0-9a-f]{36}"


class Placed(NamedTuple):
    """Where a task or actor is to run."""

    demands: list[dict[str, float]]
    strategy: Strategy | None
    captures_children: bool
    # It says nothing: a group that captures its caller's children takes it.
    follows_caller: bool


def selector_problem(selector: Any, option: str) -> str | None:
    """What is wrong with a label selector."""
    try:
        rules_of(selector)
    except (TypeError, ValueError) as error:
        return f"The option '{option}' is no selector of labels: {error}"
    return None


def check_labels(labels: Any) -> None:
    """Checks the labels that a node is to have.

    Raises:
        TypeError: Not a dictionary of strings.
        ValueError: Not the syntax of labels, or a key of the engine's own.
    """
    if not isinstance(labels, Mapping) or not all(isinstance(text, str) for pair in labels.items() for text in pair):
        raise TypeError("labels must be a dictionary of strings")
    for key, value in labels.items():
        if key.startswith("ray.io/"):
            raise ValueError(f"Custom label keys must not start with the reserved prefix 'ray.io/', got {key!r}")
        _check_key(key)
        _check_value(value)


def _check_key(key: str) -> None:
    if not re.fullmatch(_KEY, key):
        raise ValueError(
            f"{key!r} is not the key of a label: letters, digits, '-', '_' and '.', at most 63, with a letter or digit "
            "at both ends, and before it perhaps a domain and '/'"
        )


def _check_value(value: str) -> None:
    if not re.fullmatch(_VALUE, value):
        raise ValueError(
            f"{value!r} is not the value of a label: letters, digits, '-', '_' and '.', at most 63, with a letter or "
            "digit at both ends, or nothing"
        )


def rules_of(selector: Mapping[str, str]) -> list[Rule]:
    """Reads a label selector, a dictionary of keys to `v`, `!v`, `in(a,b)` or `!in(a,b)`.

    Raises:
        TypeError: Not a dictionary of strings.
        ValueError: Not the syntax of labels.
    """
    rules: list[Rule] = []
    if not isinstance(selector, Mapping):
        raise TypeError(f"it must be a dict, not {type(selector).__name__}")
    for key, text in selector.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError("its keys and values must be strings")
        _check_key(key)
        listed = re.fullmatch(_IN, text)
        negated, values = (
            (bool(listed[1]), [value.strip() for value in listed[2].split(",")])
            if listed
            else (text.startswith("!"), [text.removeprefix("!")])
        )
        for value in values:
            _check_value(value)
        rules.append((key, int(negated), values))
    return rules


def ordinary_names(resources: Mapping[str, float]) -> dict[str, float]:
    """Resources with those of placement groups by their ordinary names."""
    plain: dict[str, float] = {}
    for name, amount in resources.items():
        grouped = re.fullmatch(_GROUPED, name)
        base = grouped[1] if grouped else name
        if not grouped or base != "bundle":
            plain[base] = amount
    return plain


def place(options: Mapping[str, Any], demands: list[dict[str, float]], what: str) -> Placed:
    """Settles where something runs.

    Args:
        options: The merged options.
        demands: What is needed for it: to be placed, and (of an actor) to run.
        what: What to call it in messages.

    Returns:
        Where.

    Raises:
        ValueError: A contradiction, or a demand that the placement group can't serve.
    """
    strategy = options.get("scheduling_strategy")
    group, index, captures = _group_of(options, strategy)
    follows = False
    if group is None and strategy is None and options.get("placement_group", "default") == "default":
        follows = True
        current = _core.current_placement_group() if _core.is_initialized() else None
        if current is not None and current[1]:
            from ray_rs.util.placement_group import PlacementGroup

            group, captures = PlacementGroup(current[0]), True
    if group is not None and not group.is_empty:
        if captures is None:
            current = _core.current_placement_group()
            captures = current is not None and current[1]
        _check_fits(group, index, demands[0], what)
        named = [_in_group(demand, group.id.hex(), index) for demand in demands]
        return Placed(named, None, captures, follows)
    return Placed(demands, _strategy_of(options, strategy), False, follows)


def _group_of(options: Mapping[str, Any], strategy: Any) -> tuple[Any, int, bool | None]:
    old = options.get("placement_group", "default")
    if old != "default" and strategy is not None:
        raise ValueError(
            "Placement groups should be specified via the scheduling_strategy option. The placement_group option is "
            "deprecated."
        )
    if _is_object(strategy):
        from ray_rs.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if isinstance(strategy, PlacementGroupSchedulingStrategy):
            return (
                strategy.placement_group,
                strategy.placement_group_bundle_index,
                strategy.placement_group_capture_child_tasks,
            )
    if old == "default":
        return None, -1, None
    import warnings

    warnings.warn(
        "The options placement_group, placement_group_bundle_index and placement_group_capture_child_tasks are "
        "deprecated; use scheduling_strategy=PlacementGroupSchedulingStrategy(...).",
        DeprecationWarning,
        stacklevel=6,
    )
    return old, options.get("placement_group_bundle_index", -1), options.get("placement_group_capture_child_tasks")


def _is_object(strategy: Any) -> bool:
    """Only then are the classes of strategies needed, which the first call of most programs need not import."""
    return strategy is not None and not isinstance(strategy, str)


def _in_group(demand: Mapping[str, float], group: str, index: int) -> dict[str, float]:
    named: dict[str, float] = {}
    for name, amount in {**demand, "bundle": BUNDLE_SHARE}.items():
        named[f"{name}_group_{group}"] = amount
        if index >= 0:
            named[f"{name}_group_{index}_{group}"] = amount
    return named


def _check_fits(group: Any, index: int, demand: Mapping[str, float], what: str) -> None:
    bundles = group.bundle_specs
    if index >= len(bundles):
        raise ValueError(
            f"placement group bundle index {index} is invalid. Valid placement group indexes: 0-{len(bundles) - 1}"
        )
    if index < -1:
        raise ValueError(f"placement group bundle index {index} is invalid; -1 means any bundle.")
    candidates = bundles if index == -1 else [bundles[index]]
    if not any(all(bundle.get(name, 0) >= amount for name, amount in demand.items()) for bundle in candidates):
        place = "any bundles" if index == -1 else f"bundle {index}"
        # As Ray writes them: whole numbers of what is asked for, and fractions of what there is.
        asked = {name: int(amount) if amount == int(amount) else amount for name, amount in demand.items()}
        there = [{name: float(amount) for name, amount in bundle.items()} for bundle in bundles]
        raise ValueError(
            f"Cannot schedule {what} with the placement group because the resource request {asked} cannot fit "
            f"into {place} for the placement group, {there}."
        )


def _strategy_of(options: Mapping[str, Any], strategy: Any) -> Strategy | None:
    kind, node, flags = 0, b"", (False, False, False)
    hard: list[Rule] = []
    preferred: list[Rule] = []
    if strategy == "SPREAD":
        kind = 1
    elif _is_object(strategy):
        from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy

        if isinstance(strategy, NodeAffinitySchedulingStrategy):
            kind, node = 2, bytes.fromhex(strategy.node_id)
            flags = (strategy.soft, strategy._spill_on_unavailable, strategy._fail_on_unavailable)
        elif isinstance(strategy, NodeLabelSchedulingStrategy):
            kind, hard, preferred = 3, strategy._rules(strategy.hard), strategy._rules(strategy.soft)
    elif isinstance(strategy, str) and strategy != "DEFAULT":
        raise ValueError(f'Invalid scheduling_strategy value {strategy}. Valid values are ["DEFAULT" | "SPREAD"]')
    selectors = [options["label_selector"]] if options.get("label_selector") else []
    selectors += [each["label_selector"] for each in options.get("fallback_strategy") or []]
    if kind == 0 and not selectors:
        return None
    return (kind, node, *flags, hard, preferred, [rules_of(each) for each in selectors])
