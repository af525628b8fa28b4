import ray

# Named actors: found by tasks and other actors, in namespaces, made once by whoever comes first, gone when killed.
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, namespace="town")


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self, start=0):
        self.n = start

    def add(self, k=1):
        self.n += k
        return self.n


counter = Counter.options(name="counter").remote(10)


@ray.remote
def add_by_name(name, k):
    return ray.get(ray.get_actor(name).add.remote(k))


@ray.remote
class Clerk:
    def add(self, k):
        self.counter = ray.get_actor("counter")
        return ray.get(self.counter.add.remote(k))


print(ray.get(add_by_name.remote("counter", 1)), ray.get(Clerk.remote().add.remote(2)), ray.get(counter.add.remote()))
print(ray.get_actor("counter") == counter, ray.get_actor("counter", namespace="town") == counter)

# Another namespace is another name.
abroad = Counter.options(name="counter", namespace="abroad", lifetime="detached").remote(100)
print(ray.get(ray.get_actor("counter", namespace="abroad").add.remote()), ray.get(counter.add.remote(0)))
for name, namespace in (("nobody", None), ("counter", "nowhere"), ("", None)):
    try:
        ray.get_actor(name, namespace=namespace)
    except ValueError as error:
        print("ValueError", "Failed to look up actor" in str(error))
try:
    ray.get_actor("counter", namespace=5)
except TypeError as error:
    print("TypeError")


# Whoever comes first makes it.
@ray.remote
def get_or_create(i):
    shared = Counter.options(name="shared", get_if_exists=True, lifetime="detached").remote(1000 * i)
    return ray.get(shared.add.remote())


results = ray.get([get_or_create.remote(5) for _ in range(8)])
print(sorted(results))

# A name is taken once, and free again after a kill.
try:
    Counter.options(name="counter").remote()
except ray.exceptions.ActorAlreadyExistsError as error:
    print(type(error).__name__, isinstance(error, ValueError), "counter" in str(error))


def create_again():
    while True:
        try:
            return Counter.options(name="counter").remote(500)
        except ValueError:
            time.sleep(0.05)


ray.kill(counter)
again = create_again()
print(ray.get(again.add.remote()), ray.get(ray.get_actor("counter").add.remote()), again == counter)

# A named actor that nobody holds any more ends, and its name with it.
del again


def is_gone(name):
    for _ in range(400):
        try:
            ray.get_actor(name)
        except ValueError:
            return True
        time.sleep(0.05)
    return False


print(is_gone("counter"))
print(ray.get(ray.get_actor("shared").add.remote(0)))
ray.kill(ray.get_actor("shared"))
print(is_gone("shared"))
try:
    Counter.options(name="").remote()
except ValueError as error:
    print("ValueError")
try:
    Counter.options(name=7)
except TypeError as error:
    print("TypeError")
