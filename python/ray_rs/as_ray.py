"""Importing this module makes `import ray` give ray_rs.

Programs call `ray_rs.install_as_ray()`, which imports it. For test files that were written for Ray it is a pytest
plugin, which also knows the fixtures of Ray's own tests (`ray_rs.tests.conftest`): `pytest -p ray_rs.as_ray`, or
`python -m ray_rs -m pytest`.
"""

from typing import Any

from ray_rs._as_ray import _install

__all__: list[str] = []

_install()


def pytest_configure(config: Any) -> None:
    """Called by pytest, where this module is a plugin."""
    from ray_rs.tests import conftest

    if not config.pluginmanager.is_registered(conftest):
        config.pluginmanager.register(conftest, conftest.__name__)
