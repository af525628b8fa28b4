import ray

# Sessions one after the other, values of all shapes and what is shared between them, options that change nothing else.
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import uuid

import numpy as np


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: list = dataclasses.field(default_factory=list)


Named = collections.namedtuple("Named", "a b")


class Custom:
    def __init__(self, v):
        self.v = v
        self.log = ["init"]

    def __getstate__(self):
        return {"v": self.v, "log": self.log + ["out"]}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.log.append("in")


class Slots:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


@ray.remote
def same(x):
    return x


@ray.remote
class Keeper:
    def keep(self, x):
        self.x = x

    def give(self):
        return self.x


for _ in range(3):
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    keeper = Keeper.remote()
    keeper.keep.remote(5)
    print(ray.get(same.remote(1)), ray.get(keeper.give.remote()))
    ray.shutdown()

with ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False) as context:
    print(ray.is_initialized(), context.address_info["node_id"] == ray.get_runtime_context().get_node_id())
    values = [
        None,
        True,
        2**80,
        -1.5,
        float("inf"),
        1j,
        "é\x00",
        b"b",
        (1, (2,)),
        [[]],
        {"a": {1: None}},
        {1, 2},
        frozenset("a"),
        range(3),
        slice(1, 2),
        Ellipsis,
        int,
        len,
        re.compile("a+"),
        Colour.RED,
        Point(1, [2]),
        Named(1, 2),
        datetime.date(2020, 1, 2),
        datetime.timedelta(1),
        decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        uuid.UUID(int=5),
        pathlib.PurePosixPath("/a"),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        collections.deque([1], 3),
        np.int8(3),
        np.float32(1.5),
        np.bool_(True),
        np.str_("s"),
        np.datetime64("2020-01-02"),
    ]
    for value in values:
        got = ray.get(same.remote(value))
        if not (type(got) is type(value) and (got == value or repr(got) == repr(value))):
            print("differs", repr(value), repr(got))
    for array in [
        np.zeros((0, 3)),
        np.arange(10)[::2],
        np.asfortranarray(np.ones((2, 3))),
        np.array([[1, 2], [3, 4]], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(5),
        np.ma.masked_array([1, 2], [0, 1]),
        np.arange(200_000).reshape(400, 500)[3:9, ::7],
        np.array(["a", "bc"]),
        np.matrix([[1, 2]]),
    ]:
        got = ray.get(ray.put(array))
        print(
            type(got).__name__,
            got.dtype,
            got.shape,
            np.array_equal(np.asarray(got), np.asarray(array)),
            got.flags.writeable,
        )
    custom = ray.get(same.remote(Custom(3)))
    print(custom.v, custom.log, ray.get(ray.put(Slots(4))).a)

    # What is shared inside one value stays shared.
    inner = np.arange(3)
    both = ray.get(ray.put([inner, inner]))
    print(both[0] is both[1])
    loop = []
    loop.append(loop)
    got = ray.get(ray.put(loop))
    print(got[0] is got)
    one, two = ray.get([keeper_ref := ray.put({"a": 1})] * 2)
    one["a"] = 2
    print(two, ray.get(keeper_ref))

    # Classes and functions as values.
    print(
        ray.get(same.remote(Point)) is Point or ray.get(same.remote(Point))(1).x,
        ray.get(same.remote(lambda x: x + 1))(1),
    )

    # Arguments of every kind.
    @ray.remote
    def kinds(a, b=2, *rest, c, d=4, **more):
        return a, b, rest, c, d, sorted(more.items())

    print(ray.get(kinds.remote(1, c=3)), ray.get(kinds.remote(1, 2, 3, 4, c=5, d=6, e=7)))
    print(ray.get(kinds.remote(ray.put("r"), c=ray.put("k"), z=[ray.put(1)] and 0)))
    for args, kwargs in [((), {}), ((1,), {}), ((1,), {"a": 2, "c": 3})]:
        try:
            kinds.remote(*args, **kwargs)
        except TypeError as e:
            print("TypeError", e)
    many = {f"k{i}": i for i in range(300)}

    @ray.remote
    def count(**kwargs):
        return len(kwargs), sum(kwargs.values())

    print(ray.get(count.remote(**many)))

    @ray.remote
    def add_all(*xs):
        return sum(xs)

    print(ray.get(add_all.remote(*[ray.put(i) for i in range(500)])))

    # References inside values stay references, and keep what they refer to.
    nested = {"refs": [ray.put(i) for i in range(3)], "deep": ({"x": ray.put("deep")},)}
    got = ray.get(same.remote(nested))
    del nested
    print(ray.get(got["refs"]), ray.get(got["deep"][0]["x"]))
    print(
        ray.get(ray.get(ray.put([ray.put([ray.put(9)])]))[0])[0] in {1},
        ray.get(ray.get(ray.get(ray.put([ray.put([ray.put(9)])]))[0])[0]),
    )
print(ray.is_initialized())
