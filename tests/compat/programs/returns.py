import ray

# Several returns, none, and references as arguments: at the top, by keyword, in defaults, and inside containers.
import collections
import dataclasses

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote(num_returns=3)
def three():
    return 1, "two", [3]


@ray.remote(num_returns=2)
def as_list():
    return ["a", "b"]


@ray.remote(num_returns=0)
def nothing():
    return None


@ray.remote
def echo(*args, **kwargs):
    return args, sorted(kwargs.items())


print(ray.get(three.remote()), ray.get(as_list.remote()), nothing.remote())
first, *others = three.remote()
print(ray.get(first), ray.get(others))
print(ray.get(echo.options(num_returns=2).remote(1)))


@ray.remote(num_returns=2)
def wrong():
    return 1, 2, 3


for ref in wrong.remote():
    try:
        print(ray.get(ref))
    except ValueError as error:
        print("ValueError", "3" in str(error))


@ray.remote(num_returns=2)
def fails():
    raise KeyError("both")


for ref in fails.remote():
    try:
        ray.get(ref)
    except KeyError as error:
        print(type(error).__name__)

# References as arguments become values; references inside containers stay references.
ref = ray.put(10)
print(ray.get(echo.remote(ref, 1, name=ref, plain=2)))


@ray.remote
def kinds(top, inside, table, *, named):
    return [type(x).__name__ for x in (top, inside[0], table["k"][0], named, ray.get(inside[0]))]


print(ray.get(kinds.remote(ref, [ref], {"k": (ref,)}, named=ref)))


@dataclasses.dataclass
class Job:
    name: str
    data: ray.ObjectRef
    parts: list = dataclasses.field(default_factory=list)


Pair = collections.namedtuple("Pair", "left right")


@ray.remote
def run(job, pair):
    return job.name, ray.get(job.data), ray.get(job.parts), ray.get(pair.left) + pair.right


print(ray.get(run.remote(Job("j", ref, [ref, three.remote()[1]]), Pair(ref, 5))))


# A reference that a task captures, and one that is a default.
@ray.remote
def captured(extra=ref):
    return ray.get(ref), ray.get(extra)


print(ray.get(captured.remote()))


# A task's arguments are copies: nobody sees what another does with them.
@ray.remote
def change(items):
    items.append(1)
    return items


items = [0]
print(ray.get(change.remote(items)), items, ray.get(change.remote(items)))
shared = ray.put([0])
print(ray.get([change.remote(shared), change.remote(shared)]), ray.get(shared))


# What is kept in an actor: references and handles.
@ray.remote
class Shelf:
    def __init__(self):
        self.items = {}

    def keep(self, name, boxed):
        self.items[name] = boxed[0]

    def open(self, name):
        return ray.get(self.items[name])

    def give(self, name):
        return [self.items[name]]

    @ray.method(num_returns=2)
    def both(self):
        return len(self.items), sorted(self.items)


shelf = Shelf.remote()
ray.get(shelf.keep.remote("big", [ray.put(b"x" * 1_000_000)]))
ray.get(shelf.keep.remote("small", [echo.remote("hello")]))
print(len(ray.get(shelf.open.remote("big"))), ray.get(shelf.open.remote("small")))
print(len(ray.get(ray.get(shelf.give.remote("big"))[0])))
print(ray.get(shelf.both.remote()), ray.get(shelf.both.options(num_returns=1).remote()))
print(len({ref, ray.get(ray.put([ref]))[0]}))
