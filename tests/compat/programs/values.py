import ray

# Values of every kind, there and back: as arguments, results and put objects.
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import re
import typing
import uuid

import numpy as np

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def echo(x):
    return x


@dataclasses.dataclass
class Point:
    x: int
    y: list = dataclasses.field(default_factory=list)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Pair(typing.NamedTuple):
    left: int
    right: str


class Text(str):
    pass


class Reduced:
    def __init__(self, n):
        self.n = n

    def __reduce__(self):
        return Reduced, (self.n + 1,)

    def __repr__(self):
        return f"Reduced({self.n})"


T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, content):
        self.content = content

    def __eq__(self, other):
        return type(self) is type(other) and self.content == other.content


for value in (
    None, True, 0, -1, 2**31, -(2**63), 2**70, 1.5, float("inf"), -0.0, 1j, "", "text", "\ud800", "ü" * 300, b"", b"\0\xff",
    (), (1,), (1, (2, [3])), [], [None] * 20, {}, {"a": {"b": [1]}}, {(1, 2): 3}, {1, 2}, frozenset([1]), range(3), slice(1, 2),
    Ellipsis, NotImplemented, int, len, type(None), collections.defaultdict(int, a=1), collections.OrderedDict(b=2),
    collections.deque([1, 2], 3), collections.Counter("aab"), decimal.Decimal("1.5"), datetime.datetime(2020, 1, 2, 3),
    datetime.timedelta(seconds=5), uuid.UUID(int=5), pathlib.Path("/x/y"), Point(1, [2]), Color.BLUE, Flags.A | Flags.B,
    Pair(1, "r"), Text("t"), Box(5), np.float32(1.5), np.int64(7), np.str_("s"), ValueError("v"), KeyError,
):  # fmt: skip
    once, twice = ray.get(ray.put(value)), ray.get(echo.remote(value))
    same = type(once) is type(value) and type(twice) is type(value)
    print(
        type(value).__name__,
        same,
        repr(once) == repr(value) if not isinstance(value, Box) else once == value,
    )

print(ray.get(ray.put(bytearray(b"b"))), ray.get(echo.remote(bytearray(b"b"))), ray.get(ray.put(memoryview(b"m"))))
print(ray.get(ray.put(Reduced(1))), re.fullmatch(ray.get(ray.put(re.compile("a+"))), "aaa") is not None)

# What refers to itself, and what occurs twice.
items = [1]
items.append(items)
back = ray.get(ray.put(items))
print(back[1] is back)
array = np.zeros(3)
back = ray.get(ray.put({"one": array, "two": array}))
print(back["one"] is back["two"])
point = Point(1)
back = ray.get(ray.put((point, point)))
print(back[0] is back[1])

# Functions.
offset = 10


def add(x, y=1):
    return x + y + offset


class Adder:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x + self.n

    def method(self, x):
        return x * self.n

    @classmethod
    def make(cls, n):
        return cls(n)


@ray.remote
def apply(function, *args):
    return function(*args)


for function in (add, lambda x: -x, functools.partial(add, y=100), Adder(5), Adder(5).method, str, abs, np.square):
    print(ray.get(apply.remote(function, 3)), end=" ")
print(ray.get(apply.remote(Adder.make, 4)).n, ray.get(ray.put(add))(1))

# Depth and breadth.
deep = []
for _ in range(100):
    deep = [deep]
print(repr(ray.get(echo.remote(deep))) == repr(deep))
wide = {str(i): [i] * 3 for i in range(5000)}
print(ray.get(echo.remote(wide)) == wide)
text = "x" * 3_000_000
print(ray.get(echo.remote(text)) == text, len(ray.get(echo.remote(text.encode()))))
refs = [ray.put(i) for i in range(1000)]
print(ray.get(apply.remote(lambda boxed: sum(ray.get(boxed)), refs)))
