"""`ray.tests`: what test files written for Ray import from the directory that Ray's own tests lie in.

Ray's wheel has none of it; here it is, so that such files run where they are: `pytest -p ray_rs.as_ray` knows the
fixtures of `conftest` by itself.
"""
