"""Signatures read without `inspect` agree with it. No cluster."""

import functools
import inspect
import pydoc

import pytest
from ray_rs._signature import is_async, is_generator, raise_mismatch, signature_of
from under_test import ray, ray_rs_only


def plain(a, b=2, /, c=3, *rest, d, e=5, **more): ...


def nothing(): ...


def only_keywords(*, a, b=1): ...


@functools.wraps(plain)
def wrapper(*args, **kwargs): ...


class Callable:
    def __call__(self, x): ...


@pytest.mark.parametrize("function", [plain, nothing, only_keywords, wrapper, Callable(), functools.partial(plain, 1)])
def test_agrees_with_inspect(function):
    expected = tuple(
        (each.name, int(each.kind), each.default is not each.empty)
        for each in inspect.signature(function).parameters.values()
    )
    assert signature_of(function) == expected


def test_self_is_left_out():
    assert signature_of(Callable.__call__, bound=True) == (("x", 1, False),)
    assert signature_of(wrapper, bound=True)[0][0] == "b"


def test_what_cannot_be_known():
    assert signature_of(dict.fromkeys.__class__) is None or signature_of(iter) is None


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((1, 2, 3), {}, "too many positional arguments"),
        ((), {}, "missing a required"),
        ((1,), {"z": 2}, "unexpected keyword argument"),
        ((1,), {"a": 2}, "multiple values"),
    ],
)
def test_mismatches(args, kwargs, text):
    with pytest.raises(TypeError, match=text):
        raise_mismatch((("a", 1, False), ("b", 1, True)), args, kwargs)


def test_matches():
    raise_mismatch((("a", 1, False), ("b", 1, True)), (1,), {"b": 2})
    raise_mismatch(None, (1, 2, 3), {})


def test_kinds_of_functions():
    async def coroutine(): ...

    async def async_generator():
        yield

    def generator():
        yield

    assert [is_async(f) for f in (coroutine, async_generator, generator, plain)] == [True, True, False, False]
    assert [is_generator(f) for f in (coroutine, async_generator, generator, plain)] == [False, True, True, False]
    assert is_async(functools.partial(coroutine))


def documented(a: int, *, b: str = "x") -> float:
    """Says what it does."""
    return 0.0


class Documented:
    """Counts."""

    def __init__(self, start: int = 0) -> None: ...

    def add(self, k: int) -> int:
        """Adds."""
        return k


@ray_rs_only("Ray leaves the signature of a remote function at its method `remote`")
def test_decorated_functions_keep_signature_and_docstring():
    remote = ray.remote(documented)
    assert inspect.signature(remote) == inspect.signature(documented)
    assert inspect.getdoc(remote) == "Says what it does."
    assert "Says what it does." in pydoc.render_doc(remote)
    changed = ray.remote(num_cpus=2)(documented).options(name="other")
    assert inspect.signature(changed) == inspect.signature(documented)


def test_remote_itself_has_them_too():
    for remote in (ray.remote(documented), ray.remote(documented).options(num_cpus=2)):
        assert inspect.signature(remote.remote) == inspect.signature(documented)
        assert inspect.getdoc(remote.remote) == "Says what it does."
        assert remote.remote.__name__ == "documented"
        assert remote.remote is remote.remote


@ray_rs_only("Ray leaves the signature of a remote function at its method `remote`")
def test_decorated_classes_keep_signature_and_docstring():
    actor_class = ray.remote(Documented)
    assert inspect.signature(actor_class) == inspect.signature(Documented)
    assert inspect.getdoc(actor_class) == "Counts."
    assert str(inspect.signature(actor_class.add)) == "(k: int) -> int"
    assert inspect.getdoc(actor_class.add) == "Adds."
    assert "Adds." in pydoc.render_doc(actor_class)
