"""Importing this module makes `import ray` give ray_rs.

Programs call `ray_rs.install_as_ray()`, which imports it. For test files that were written for Ray it is a pytest
plugin: `pytest -p ray_rs.as_ray`.
"""

from ray_rs._as_ray import _install

__all__: list[str] = []

_install()
