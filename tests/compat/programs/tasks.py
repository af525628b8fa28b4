import ray

# A tour of tasks.
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def add(x, y=10):
    return x + y


@ray.remote(num_returns=2)
def divmod_remote(a, b):
    return divmod(a, b)


@ray.remote
def total(*parts, scale=1):
    return scale * sum(parts)


print(ray.get(add.remote(1)), ray.get(add.remote(1, y=2)), ray.get(add.remote(ray.put(5), add.remote(1, 1))))
quotient, rest = divmod_remote.remote(17, 5)
print(ray.get(quotient), ray.get(rest))
print(ray.get(total.remote(*[add.remote(i, i) for i in range(10)], scale=ray.put(3))))


@ray.remote
def sleep_for(seconds):
    time.sleep(seconds)
    return seconds


# Results in the order in which they are finished.
waiting = [sleep_for.remote(s) for s in (1.0, 0.2)]
order = []
while waiting:
    ready, waiting = ray.wait(waiting)
    order += ray.get(ready)
print(order)

# At most three tasks at a time.
refs, done = [], 0
for i in range(20):
    if len(refs) >= 3:
        ready, refs = ray.wait(refs)
        done += len(ready)
    refs.append(add.remote(i))
done += len(ray.get(refs))
print(done)


# Recursion, and a reduce as a tree.
@ray.remote
def quicksort(numbers):
    if len(numbers) < 20:
        return sorted(numbers)
    pivot = numbers[len(numbers) // 2]
    low = quicksort.remote([n for n in numbers if n < pivot])
    high = quicksort.remote([n for n in numbers if n > pivot])
    return ray.get(low) + [n for n in numbers if n == pivot] + ray.get(high)


numbers = [(i * 7919) % 1009 for i in range(100)]
print(ray.get(quicksort.remote(numbers)) == sorted(numbers))
leaves = [add.remote(i, 0) for i in range(16)]
while len(leaves) > 1:
    leaves = [add.remote(a, b) for a, b in zip(leaves[::2], leaves[1::2])]
print(ray.get(leaves[0]))


# Captured when first submitted.
k = 1


@ray.remote
def captured():
    return k


print(ray.get(captured.remote()))
k = 2
print(ray.get(captured.remote()))
print(ray.get(ray.remote(lambda: "lambda").remote()), ray.get(add.options(num_cpus=2).remote(1)))
