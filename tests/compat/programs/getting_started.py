import ray

# What the first pages of Ray's documentation do: tasks, actors, objects, their options and their errors.
import functools
import time

import numpy as np

ray.init(num_cpus=2, resources={"special": 2}, log_to_driver=False, include_dashboard=False)


@ray.remote
def f(x):
    return x * x


print([ray.get(ref) for ref in [f.remote(i) for i in range(4)]])


@ray.remote
class Counter:
    def __init__(self):
        self.n = 0

    def increment(self):
        self.n += 1

    def read(self):
        return self.n


counters = [Counter.remote() for _ in range(2)]
[c.increment.remote() for c in counters for _ in range(3)]
print(ray.get([c.read.remote() for c in counters]))

# Objects.
y = 1
object_ref = ray.put(y)
assert ray.get(object_ref) == 1
print([ray.get(ray.put(i)) for i in range(3)], ray.get([ray.put(i) for i in range(3)]))


@ray.remote
def echo(x):
    return type(x).__name__


@ray.remote
def echo_and_get(x_list):
    return [type(x).__name__ for x in x_list], ray.get(x_list)


obj = ray.put(1)
print(ray.get(echo.remote(obj)))
print(ray.get(echo.remote({"obj": obj})))
print(ray.get(echo_and_get.remote([obj, ray.put(2)])))


# Multiple returns, and generators for them.
@ray.remote(num_returns=3)
def return_multiple():
    return 0, 1, 2


@ray.remote(num_returns=3)
def return_multiple_as_generator():
    for i in range(3):
        yield i


a, b, c = return_multiple.remote()
print(ray.get([a, b, c]), ray.get(return_multiple_as_generator.remote()))

# Options.
print(ray.get(f.options(num_cpus=0.5, resources={"special": 0.1}).remote(3)))
try:
    f.options(num_cpus=-1)
except ValueError as e:
    print("ValueError", e)


# A task that waits for another's result through its argument.
@ray.remote
def slow(x):
    time.sleep(0.1)
    return x + 1


chain = 0
for _ in range(4):
    chain = slow.remote(chain)
print(ray.get(chain))

# get with a timeout.
try:
    ray.get(slow.options(num_cpus=2).remote(1), timeout=0.01)
except ray.exceptions.GetTimeoutError as e:
    print(type(e).__name__, isinstance(e, TimeoutError))

# partial, lambda, methods of classes.
add = ray.remote(lambda x, y: x + y)
print(ray.get(add.remote(1, 2)))
try:
    ray.remote(functools.partial(max, 1))
except TypeError as e:
    print("TypeError", str(e)[:40])


class Plain:
    def __init__(self, k):
        self.k = k

    def times(self, x):
        return self.k * x

    @staticmethod
    def static(x):
        return -x

    @classmethod
    def make(cls):
        return cls(5)


Remote = ray.remote(Plain)
handle = Remote.remote(3)
print(ray.get(handle.times.remote(4)), Plain(2).times(4), Remote.static(1), ray.get(handle.static.remote(2)))
print(isinstance(Remote.make(), Plain))


# Arrays.
matrix = ray.put(np.arange(6).reshape(2, 3))


@ray.remote
def total(m, axis=None):
    return m.sum(axis=axis).tolist()


print(ray.get([total.remote(matrix), total.remote(matrix, axis=0)]))
got = ray.get(matrix)
try:
    got[0, 0] = 7
except ValueError as e:
    print("ValueError", "read-only" in str(e))
copied = got.copy()
copied[0, 0] = 7
print(copied.tolist(), ray.get(matrix).tolist())


# Errors.
@ray.remote
def fails(kind):
    if kind == "value":
        raise ValueError("bad value")
    if kind == "key":
        return {}["missing"]
    if kind == "chain":
        try:
            1 / 0
        except ZeroDivisionError as e:
            raise RuntimeError("wrapped") from e
    return ray.get(fails.remote("value"))


for kind in ("value", "key", "chain", "nested"):
    try:
        ray.get(fails.options(max_retries=0).remote(kind))
    except Exception as e:
        names = [c.__name__ for c in type(e).__mro__[1:4]]
        print(kind, type(e).__name__, names[-1], type(e.cause).__name__, str(e).strip().splitlines()[-1])


# Actors by name, and handles passed to tasks.
named = Counter.options(name="global", lifetime="detached", namespace="here").remote()
ray.get(named.increment.remote())
again = ray.get_actor("global", namespace="here")


@ray.remote
def bump(counter, n):
    for _ in range(n):
        ray.get(counter.increment.remote())
    return n


print(ray.get([bump.remote(named, 2), bump.remote(again, 3)]), ray.get(again.read.remote()))
ray.kill(named)
for _ in range(100):
    try:
        ray.get_actor("global", namespace="here")
        time.sleep(0.05)
    except ValueError as e:
        print("ValueError", str(e)[:39])
        break


# Waiting.
@ray.remote
def sleeper(t):
    time.sleep(t)
    return t


refs = [sleeper.remote(t) for t in (0.6, 0.0)]
ready, rest = ray.wait(refs, num_returns=1, timeout=10)
print(ready == [refs[1]], rest == [refs[0]], len(ray.wait(refs, num_returns=2)[0]))
print(sorted(k for k in ray.cluster_resources() if not k.startswith(("node:", "memory", "object", "accel"))))
ray.shutdown()
print(ray.is_initialized())
