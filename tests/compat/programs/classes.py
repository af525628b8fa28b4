import ray

# What an actor class, and a function, may look like.
import abc
import dataclasses
import functools
import typing

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


class Shape(abc.ABC):
    sides = 0
    made = 0

    def __init__(self, name="shape"):
        self.name = name
        type(self).made += 1

    @abc.abstractmethod
    def area(self): ...

    def describe(self):
        return f"{self.name} with {self.sides} sides and area {self.area()}"


class Square(Shape):
    sides = 4

    def __init__(self, side, *, name="square"):
        super().__init__(name)
        self.side = side

    def area(self):
        return self.side**2

    @staticmethod
    def corners():
        return 4

    @classmethod
    def count(cls):
        return cls.made

    @property
    def diagonal(self):
        return self.side * 2**0.5

    def __call__(self, x):
        return x * self.side

    def __len__(self):
        return self.side

    def with_default(self, a, b=2, *args, c=3, **kwargs):
        return a, b, args, c, kwargs

    def _private(self):
        return "private"


RemoteSquare = ray.remote(Square)
square = RemoteSquare.remote(3)
print(ray.get(square.describe.remote()), ray.get(square.corners.remote()), ray.get(square.count.remote()))
print(ray.get(square.__call__.remote(5)), ray.get(square._private.remote()))
print(ray.get(square.with_default.remote(1)), ray.get(square.with_default.remote(1, 5, 6, 7, c=8, d=9)))
print(ray.get(ray.remote(num_cpus=0)(Square).remote(2, name="named").describe.remote()), Square(5).describe())
for call in (lambda: square.with_default.remote(), lambda: square.area.remote(1), lambda: RemoteSquare.remote()):
    try:
        call()
    except TypeError as error:
        print("TypeError", "argument" in str(error))
print(hasattr(square, "area"), hasattr(square, "missing"), hasattr(square, "name"))


# State of the class is state of the process.
other = RemoteSquare.remote(4)
print(ray.get(other.count.remote()), Square.made)


# A handle of one's own, given away.
@ray.remote(num_cpus=0)
class Node:
    def __init__(self, value):
        self.value, self.children = value, []

    def me(self):
        return ray.get_runtime_context().current_actor

    def attach(self, parent):
        return ray.get(parent.add.remote(self.me()))

    def add(self, child):
        self.children.append(child)
        return len(self.children)

    def total(self):
        return self.value + sum(ray.get([child.total.remote() for child in self.children]))


root, children = Node.remote(1), []
for i in range(3):
    child = Node.remote(10 * (i + 1))
    children.append(child)
    print(ray.get(child.attach.remote(root)), end=" ")
print(ray.get(root.total.remote()), ray.get(root.me.remote()) == root)


@dataclasses.dataclass
class Config:
    rate: float
    layers: typing.List[int] = dataclasses.field(default_factory=lambda: [1, 2])


@ray.remote
class Trainer:
    def __init__(self, config: Config, *callbacks: typing.Callable):
        self.config, self.callbacks = config, callbacks

    def train(self, steps: int) -> list:
        return [callback(step * self.config.rate) for step in range(steps) for callback in self.callbacks]


offset = 100
print(ray.get(Trainer.remote(Config(0.5), lambda x: x + offset, round, functools.partial(max, 1)).train.remote(3)))


# Functions of all kinds.
def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return f"{function.__name__}{args} = {function(*args, **kwargs)}"

    return wrapper


@ray.remote
@logged
def add(a, b=1):
    return a + b


print(ray.get(add.remote(2)), ray.get(add.remote(2, b=5)))


def make_adder(n):
    def adder(x):
        return x + n

    return ray.remote(adder)


print(ray.get([make_adder(n).remote(10) for n in range(3)]))
print(ray.get(ray.remote(functools.lru_cache(lambda: "cached").__wrapped__).remote()))


@ray.remote
def apply(function, *args):
    return function(*args)


print(ray.get(apply.remote(lambda x, y: x * y, 6, 7)), ray.get(apply.remote(str.upper, "text")))
print(ray.get(apply.remote(Square(6).describe)), ray.get(apply.remote(Square(6), 7)), ray.get(apply.remote(len, [1])))


class Outer:
    class Inner:
        def value(self):
            return "inner"


print(ray.get(ray.remote(Outer.Inner).remote().value.remote()))


# One function calls another, whose name is only bound later.
@ray.remote
def even(n):
    return True if n == 0 else ray.get(odd.remote(n - 1))


@ray.remote
def odd(n):
    return False if n == 0 else ray.get(even.remote(n - 1))


print(ray.get(even.remote(5)), ray.get(odd.remote(3)))

# A generic value, and enums and named tuples as arguments.
import collections
import enum


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


Point = collections.namedtuple("Point", "x y")


@ray.remote
def mirror(color, point):
    return color, Point(point.y, point.x)


color, point = ray.get(mirror.remote(Color.RED, Point(1, 2)))
print(color == Color.RED, color.name, point, type(point).__name__)
