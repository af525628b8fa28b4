"""What programs ask of the cluster's autoscaler."""

from __future__ import annotations

from typing import Any

from ray_rs import _autoscaling

__all__ = ["request_resources"]


def request_resources(
    num_cpus: int | None = None,
    bundles: list[dict[str, float]] | None = None,
    bundle_label_selectors: list[dict[str, str]] | None = None,
) -> None:
    """Asks for a cluster that has room for this, whether or not something is running.

    Each call replaces what was asked for before, by whichever program; one without arguments asks for nothing. What is
    asked for outlives the program. Without an autoscaler nothing follows from it but a line in `ray_rs status`.

    Args:
        num_cpus: So many CPUs, wherever.
        bundles: Resources that are to fit into the cluster, each bundle on one node.
        bundle_label_selectors: Labels that the nodes of the bundles need; the autoscaler does not look at labels.

    Raises:
        RaySystemError: There is no session.
        NotImplementedError: There are label selectors.
        TypeError: Arguments of other types.
        ValueError: A negative amount.

    Example:
        >>> ray_rs.autoscaler.sdk.request_resources(num_cpus=64)
        >>> ray_rs.autoscaler.sdk.request_resources(bundles=[{"GPU": 1}] * 4)
        >>> ray_rs.autoscaler.sdk.request_resources()
    """
    if bundle_label_selectors and any(bundle_label_selectors):
        raise NotImplementedError("ray_rs' autoscaler does not look at labels: leave bundle_label_selectors out.")
    wanted: list[Any] = []
    if num_cpus is not None:
        if not isinstance(num_cpus, int) or isinstance(num_cpus, bool):
            raise TypeError(f"num_cpus should be of type int, not {type(num_cpus).__name__}.")
        wanted.append(({"CPU": 1.0}, num_cpus))
    if bundles is not None:
        if not isinstance(bundles, list) or not all(isinstance(bundle, dict) for bundle in bundles):
            raise TypeError("bundles should be of type List[Dict[str, float]].")
        wanted += [(bundle, 1) for bundle in bundles if bundle]
    _autoscaling.request_resources(wanted)
