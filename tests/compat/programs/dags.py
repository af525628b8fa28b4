import ray

# Graphs that are bound first and executed later: inputs, several outputs, shared nodes, actors, errors.
from ray.dag import InputNode, MultiOutputNode

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def add(x, y=0):
    return x + y


@ray.remote
def double(x):
    return 2 * x


@ray.remote
def fail(x):
    raise KeyError(x)


# Constants only.
print(ray.get(add.bind(double.bind(2), double.bind(3)).execute()))

# One input, used twice; then its parts, by position and by name.
with InputNode() as given:
    once = add.bind(double.bind(given), given)
print([ray.get(once.execute(i)) for i in range(4)])

with InputNode() as given:
    parts = add.bind(given[0], y=given.more)
print(ray.get(parts.execute(1, more=2)), ray.get(parts.execute(10, more=20)))

with InputNode() as given:
    items = add.bind(given["left"], given["right"])
print(ray.get(items.execute({"left": "a", "right": "b"})))


# A node that two others share runs once.
@ray.remote
class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, n):
        self.value += n
        return self.value


counter = Counter.remote()
with InputNode() as given:
    shared = counter.add.bind(given)
    diamond = MultiOutputNode([double.bind(shared), add.bind(shared, 100)])
print(ray.get(diamond.execute(1)), ray.get(diamond.execute(2)), ray.get(counter.add.remote(0)))

# An actor that the graph makes itself, with calls in order.
made = Counter.bind(10)
first = made.add.bind(1)
second = made.add.bind(5)
print(ray.get(add.bind(first, second).execute()))

# Options of a node, and arguments in lists.
print(ray.get(double.options(name="twice", num_cpus=0.5).bind(21).execute()))

# An error goes through what depends on it.
with InputNode() as given:
    broken = add.bind(double.bind(fail.bind(given)), 1)
try:
    ray.get(broken.execute("nothing"))
except KeyError as error:
    print(type(error).__name__, isinstance(error, ray.exceptions.RayTaskError))

# Misuse.
for misuse in (
    lambda: double.bind(1)(),
    lambda: counter.add.bind(1)(),
    lambda: ray.get(double.bind(1, 2, 3).execute()),
):
    try:
        misuse()
    except Exception as error:
        print(type(error).__name__)
