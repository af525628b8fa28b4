"""The configuration of a cluster that grows and shrinks, read and looked over; and requests to its autoscaler.

The names are those of Ray's cluster files as far as they mean something here: node types with their resources and
limits, how long a node may be idle, and a provider, which starts and ends nodes. A file is JSON, or YAML where PyYAML
is installed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

__all__ = ["ConfigError", "checked", "of_cluster", "parsed", "read", "request_resources"]

_IDLE_MINUTES = 5.0
_START_MINUTES = 10.0
_MAX_WORKERS = 2
_MOST = 2**31 - 1

# Keys of Ray's files that say what is no business of this autoscaler.
_RAYS_OWN = (
    "auth",
    "docker",
    "cluster_synced_files",
    "file_mounts",
    "file_mounts_sync_continuously",
    "head_setup_commands",
    "head_start_ray_commands",
    "initialization_commands",
    "rsync_exclude",
    "rsync_filter",
    "setup_commands",
    "worker_setup_commands",
    "worker_start_ray_commands",
)


class ConfigError(ValueError):
    """A configuration makes no sense; the text names the key."""


def read(path: str) -> dict[str, Any]:
    """Reads a configuration.

    Args:
        path: Of a file with JSON or YAML.

    Returns:
        What `launch_head` takes as "autoscaling".

    Raises:
        ConfigError: It cannot be read, or makes no sense.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the autoscaling configuration {path}: {error}") from None
    try:
        return checked(parsed(text))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parsed(text: str) -> Any:
    """JSON, or YAML where PyYAML is installed.

    Args:
        text: The content of a file.

    Returns:
        Dictionaries, lists and plain values.

    Raises:
        ConfigError: It is neither, or there is no PyYAML.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        not_json = error
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise ConfigError(
            f"it is no JSON ({not_json}), and YAML is read with PyYAML, which is not installed: "
            "pip install pyyaml, or write JSON"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"it is no YAML: {error}") from None


def _fail(key: str, problem: str) -> Any:
    raise ConfigError(f"{key}: {problem}" if key else problem)


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        _fail(key, f"must be a mapping by names, not {value!r}")
    return dict(value)


def _known(value: dict[str, Any], key: str, names: Iterable[str]) -> None:
    for name in value:
        if name not in names:
            _fail(f"{key}.{name}" if key else name, f"is not known; what is known there: {', '.join(sorted(names))}")


def _count(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
        _fail(key, f"must be a whole number that is not negative, not {value!r}")
    return int(value)


def _number(value: Any, key: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        _fail(key, f"must be a number that is not negative, not {value!r}")
    return float(value)


def _command(value: Any, key: str) -> dict[str, Any]:
    """A text for a shell, or the words of a command."""
    if isinstance(value, str) and value.strip():
        return {"shell": value}
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return {"words": value}
    return _fail(key, f"must be a command: a text for the shell, or a list of words, not {value!r}")  # type: ignore[no-any-return]


def checked(config: Any) -> dict[str, Any]:
    """Looks a configuration over and completes it.

    Args:
        config: What a file contains.

    Returns:
        What `launch_head` takes as "autoscaling".

    Raises:
        ConfigError: It makes no sense; the text names the key.
    """
    config = _mapping(config, "")
    for name in _RAYS_OWN:
        # Ray's own example files have many of them, empty.
        if config.get(name):
            _fail(name, "has no meaning here: nodes are set up by the provider's commands")
        config.pop(name, None)
    names = ("available_node_types", "cluster_name", "head_node_type", "idle_timeout_minutes", "max_workers")
    _known(config, "", (*names, "provider", "upscaling_speed"))
    limit = _count(config.get("max_workers", _MAX_WORKERS), "max_workers")
    types = _mapping(config.get("available_node_types", {}), "available_node_types")
    head = config.get("head_node_type")
    if head is not None and head not in types:
        _fail("head_node_type", f"{head!r} is none of available_node_types")
    # The head is there already: its type says nothing about nodes to start.
    types = {name: _node_type(name, value, limit) for name, value in types.items() if name != head}
    if not types:
        _fail("available_node_types", "there is none that could be started")
    provider, start_minutes = _provider(config.get("provider"))
    return {
        "max_workers": limit,
        "idle_timeout_s": 60 * _number(config.get("idle_timeout_minutes", _IDLE_MINUTES), "idle_timeout_minutes"),
        "start_timeout_s": 60 * start_minutes,
        "upscaling_speed": _number(config.get("upscaling_speed", 1.0), "upscaling_speed"),
        "types": list(types.values()),
        "provider": provider,
    }


def _node_type(name: str, value: Any, limit: int) -> dict[str, Any]:
    key = f"available_node_types.{name}"
    value = _mapping(value, key)
    _known(value, key, ("labels", "max_workers", "min_workers", "node_config", "resources"))
    resources = _mapping(value.get("resources", {}), f"{key}.resources")
    amounts = {each: _number(amount, f"{key}.resources.{each}") for each, amount in resources.items()}
    if not any(amounts.values()):
        _fail(f"{key}.resources", 'must say what a node of the type has, such as {"CPU": 4}')
    for each in ("CPU", "GPU"):
        if amounts.get(each, 0) != int(amounts.get(each, 0)):
            _fail(f"{key}.resources.{each}", f"must be a whole number, not {amounts[each]}")
    labels = _mapping(value.get("labels", {}), f"{key}.labels")
    for each, text in labels.items():
        if not isinstance(text, str) or set("=, '\"") & set(each + text):
            _fail(f"{key}.labels.{each}", f"must be a text without '=', ',', quotes and spaces, not {text!r}")
    most = _count(value.get("max_workers", limit), f"{key}.max_workers")
    least = _count(value.get("min_workers", 0), f"{key}.min_workers")
    if least > min(most, limit):
        _fail(f"{key}.min_workers", f"is {least}, more than max_workers, which is {min(most, limit)}")
    return {"name": name, "resources": amounts, "labels": labels, "min_workers": least, "max_workers": most}


def _provider(value: Any) -> tuple[dict[str, Any], float]:
    """The provider, and after how many minutes it is given up that a node comes."""
    if value is None:
        _fail("provider", 'is missing, such as {"type": "local"} or {"type": "command", "start_command": ...}')
    provider = _mapping(value, "provider")
    kind = provider.get("type")
    if kind not in ("command", "local"):
        _fail("provider.type", f"must be 'local' or 'command', not {kind!r}")
    commands = ("end_command", "start_command") if kind == "command" else ()
    _known(provider, "provider", ("type", "start_timeout_minutes", *commands))
    minutes = _number(provider.get("start_timeout_minutes", _START_MINUTES), "provider.start_timeout_minutes")
    if not minutes:
        _fail("provider.start_timeout_minutes", "must be more than 0")
    if kind == "local":
        return {"type": "local"}, minutes
    if "start_command" not in provider:
        _fail("provider.start_command", "is missing: the command that starts a node")
    start = _command(provider["start_command"], "provider.start_command")
    end = provider.get("end_command")
    end = None if end is None else _command(end, "provider.end_command")
    return {"type": "command", "start_command": start, "end_command": end}, minutes


def of_cluster(worker_node_types: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a cluster on this machine, as `AutoscalingCluster` is told of it.

    Args:
        worker_node_types: As "available_node_types".
        config: Further keys of a configuration.

    Returns:
        What `launch_head` takes as "autoscaling".

    Raises:
        ConfigError: It makes no sense.
    """
    most = sum(value.get("max_workers", 0) for value in worker_node_types.values() if isinstance(value, dict))
    defaults = {"max_workers": most, "provider": {"type": "local"}}
    return checked({**defaults, **config, "available_node_types": worker_node_types})


def request_resources(wanted: list[tuple[dict[str, float], int]]) -> None:
    """Tells the control store what there is to be room for; replaces what was told before.

    Args:
        wanted: Resources that are to be on one node, and how often.

    Raises:
        RaySystemError: There is no session.
        ValueError: A negative amount.
    """
    from ray_rs import _core

    def amounts_of(resources: dict[str, float]) -> dict[str, float]:
        return {str(name): float(amount) for name, amount in resources.items()}

    shapes = [(amounts_of(resources), count) for resources, count in wanted if count]
    if any(count < 0 or min(amounts.values(), default=0.0) < 0 for amounts, count in shapes):
        raise ValueError("resources that are requested must not be negative")
    _core.request_resources(shapes)
