import ray
# Tasks that start tasks: recursion deeper than the machine has CPUs, and graphs that are only known while they run.

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def fibonacci(n):
    if n < 2:
        return n
    return sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))


print(ray.get([fibonacci.remote(n) for n in range(6)]))


@ray.remote
def countdown(n):
    return [n] if n == 0 else [n, *ray.get(countdown.remote(n - 1))]


print(ray.get(countdown.remote(8)))

# A graph that grows as it is walked: links are found in pages, and each page is fetched once.
LINKS = {"index": ["a", "b"], "a": ["c", "index"], "b": ["c", "d"], "c": ["d"], "d": ["e"], "e": []}


@ray.remote
def fetch(page):
    return page, LINKS[page]


seen, waiting = {"index"}, [fetch.remote("index")]
while waiting:
    (ready,), waiting = ray.wait(waiting)
    page, links = ray.get(ready)
    for link in links:
        if link not in seen:
            seen.add(link)
            waiting.append(fetch.remote(link))
print(sorted(seen))


# A task that returns references of tasks that it started and did not wait for.
@ray.remote
def square(x):
    return x * x


@ray.remote
def start(n):
    return [square.remote(i) for i in range(n)]


print(ray.get(ray.get(start.remote(5))))


# A reference that is returned alone is a value like any other.
@ray.remote
def one():
    return square.remote(9)


inner = ray.get(one.remote())
print(type(inner).__name__, ray.get(inner), ray.get(square.remote(inner)))


# Merge sort, given references and not values.
@ray.remote
def merge(left, right):
    merged, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]


def merge_sort(parts):
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return merge.remote(merge_sort(parts[:middle]), merge_sort(parts[middle:]))


numbers = [(i * 37) % 101 for i in range(101)]
print(ray.get(merge_sort([ray.put(sorted(numbers[i : i + 10])) for i in range(0, 101, 10)])) == sorted(numbers))


# An actor that starts tasks, which call the actor.
@ray.remote
class Collector:
    def __init__(self):
        self.found = []

    def add(self, x):
        self.found.append(x)

    def result(self):
        return sorted(self.found)


@ray.remote
def walk(collector, depth, label):
    done = [collector.add.remote(label)]
    if depth > 0:
        done += [walk.remote(collector, depth - 1, label + side) for side in "lr"]
    ray.get(done)


collector = Collector.remote()
ray.get(walk.remote(collector, 3, "."))
print(ray.get(collector.result.remote()))
