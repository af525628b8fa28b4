"""Metrics of an application: counters, gauges and histograms that `ray_rs metrics` shows in Prometheus' format."""

from __future__ import annotations

import re
import warnings
from typing import Any

from ray_rs import _metrics

__all__ = ["Counter", "Gauge", "Histogram", "Metric"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class Metric:
    """What all three have in common. Picklable: tasks and actors may use one that was made elsewhere.

    Args:
        name: Letters, digits and underscores.
        description: For people.
        tag_keys: Keys for which each measurement has a value.

    Raises:
        ValueError: An empty name.
        TypeError: `tag_keys` is no tuple of strings.
    """

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        if not name:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        if tag_keys is not None and not isinstance(tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(tag_keys)}")
        for key in tag_keys or ():
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
        self._name = name
        self._description = description
        self._tag_keys = tag_keys or ()
        self._default_tags: dict[str, str] = {}
        self._discarded = not _NAME.fullmatch(name)
        if self._discarded:
            warnings.warn(
                f"Invalid metric name: {name}. Metric will be discarded and data will not be collected or published. "
                "Metric names can only contain letters, numbers, _, and :. Metric names cannot start with numbers.",
                UserWarning,
                stacklevel=3,
            )
        elif ":" in name:
            warnings.warn(
                f"Metric name {name} contains a : character, which is no longer allowed. Please migrate to the new "
                "metric name format.",
                FutureWarning,
                stacklevel=3,
            )

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag keys and default tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def set_default_tags(self, default_tags: dict[str, str]) -> Any:
        """Values of tags for measurements that give none.

        Args:
            default_tags: Value by key.

        Returns:
            The metric.

        Raises:
            ValueError: A key that is none of the metric's.
            TypeError: A value that is no string.
        """
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        self._default_tags = dict(default_tags)
        return self

    def _tags(self, given: dict[str, str] | None) -> dict[str, str]:
        for key, value in (given or {}).items():
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        tags = {**self._default_tags, **(given or {})}
        missing = [key for key in self._tag_keys if key not in tags]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        unknown = [key for key in tags if key not in self._tag_keys]
        if unknown:
            raise ValueError(f"Unrecognized tag key(s): {','.join(unknown)}.")
        return tags

    def _record(self, kind: int, value: float, tags: dict[str, str] | None, boundaries: Any = ()) -> None:
        checked = self._tags(tags)
        if not self._discarded:
            _metrics.record(kind, self._name, self._description, checked, float(value), boundaries)


def _check_number(value: Any) -> None:
    if not isinstance(value, (int, float)):
        raise TypeError(f"value must be int or float, got {type(value)}.")


class Counter(Metric):
    """A number that only grows; over all processes its parts are summed up.

    Args, and what is raised, are those of `Metric`.

    Example:
        >>> requests = Counter("requests", tag_keys=("route",))  # doctest: +SKIP
        >>> requests.inc(tags={"route": "/"})  # doctest: +SKIP
    """

    def inc(self, value: int | float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Adds to it.

        Args:
            value: Greater than 0.
            tags: Value by key.

        Raises:
            TypeError: Not a number; a tag that is no string.
            ValueError: Not greater than 0; a missing or unknown tag.
        """
        _check_number(value)
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        self._record(_metrics.COUNTER, value, tags)


class Gauge(Metric):
    """A number that goes up and down; each process has its own.

    Args, and what is raised, are those of `Metric`.
    """

    def set(self, value: int | float | None, tags: dict[str, str] | None = None) -> None:
        """Sets it.

        Args:
            value: The number; None: it stays as it is.
            tags: Value by key.

        Raises:
            TypeError: Not a number; a tag that is no string.
            ValueError: A missing or unknown tag.
        """
        if value is None:
            return
        _check_number(value)
        self._record(_metrics.GAUGE, value, tags)


class Histogram(Metric):
    """Counts how many observations were how large.

    Args:
        name: As of `Metric`.
        description: As of `Metric`.
        boundaries: Upper bounds of what is counted together, each greater than 0.
        tag_keys: As of `Metric`.

    Raises:
        ValueError: No boundaries, or one that is not greater than 0; an empty name.
        TypeError: `tag_keys` is no tuple of strings.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: list[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(name, description, tag_keys)
        if not boundaries:
            raise ValueError("boundaries argument should be provided when using the Histogram class. e.g. [1, 2]")
        for each in boundaries:
            if each <= 0:
                raise ValueError(f"Invalid `boundaries` argument, {boundaries}. Use positive values for the arguments.")
        self.boundaries = sorted(boundaries)

    def observe(self, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Counts an observation.

        Args:
            value: How large it was.
            tags: Value by key.

        Raises:
            TypeError: Not a number; a tag that is no string.
            ValueError: A missing or unknown tag.
        """
        _check_number(value)
        self._record(_metrics.HISTOGRAM, value, tags, tuple(map(float, self.boundaries)))

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag keys, default tags and boundaries."""
        return {**super().info, "boundaries": self.boundaries}
