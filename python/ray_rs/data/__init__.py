"""`ray.data` for libraries on Ray Core that import a function of Ray Data which few of their users ever call.

Ray Data itself is no part of ray_rs: what is here refuses when it is called, and what is not here says why.
"""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["from_pandas_refs"]


def from_pandas_refs(dfs: Any, *_options: Any, **_named: Any) -> NoReturn:
    """Refused: there are no datasets. Modin imports it.

    Args:
        dfs: References to dataframes, of which Ray Data would make a dataset.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError(f"ray.data.from_pandas_refs: {_REASON}")


_REASON = (
    "Ray Data is a library on top of Ray Core, and ray_rs is Ray Core alone. What needs datasets has to run on Ray "
    "itself."
)


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"module 'ray.data' has no attribute {name!r}: {_REASON}", name=name)
