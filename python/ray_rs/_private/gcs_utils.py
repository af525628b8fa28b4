"""`ray._private.gcs_utils`: the numbers of actor states, as Ray's control store has them."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ActorTableData"]


class ActorTableData(IntEnum):
    """States of actors."""

    DEPENDENCIES_UNREADY = 0
    PENDING_CREATION = 1
    ALIVE = 2
    RESTARTING = 3
    DEAD = 4
