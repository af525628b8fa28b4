import ray

# Map, shuffle and reduce; a tree of sums; prefix sums. Data go from task to task, the driver holds references only.
import collections

import numpy as np

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)

TEXT = (
    "the quick brown fox jumps over the lazy dog while the cat sleeps and a bird sings over the old house "
    "the dog barks and the fox runs away over the hill and the bird flies to the house"
).split()
MAPPERS, REDUCERS = 5, 3


@ray.remote(num_returns=REDUCERS)
def map_words(words):
    parts = [collections.Counter() for _ in range(REDUCERS)]
    for word in words:
        parts[sum(word.encode()) % REDUCERS][word] += 1
    return parts


@ray.remote
def reduce_words(*parts):
    return sum(parts, collections.Counter())


mapped = [map_words.remote(TEXT[i::MAPPERS]) for i in range(MAPPERS)]
reduced = ray.get([reduce_words.remote(*[parts[i] for parts in mapped]) for i in range(REDUCERS)])
counts = sum(reduced, collections.Counter())
print(counts == collections.Counter(TEXT), sum(len(part) for part in reduced) == len(counts))
print(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5])


@ray.remote
def add(*numbers):
    return sum(numbers)


for fan_in in (2, 3, 7):
    level, depth = [ray.put(i) for i in range(50)], 0
    while len(level) > 1:
        level = [add.remote(*level[i : i + fan_in]) for i in range(0, len(level), fan_in)]
        depth += 1
    print(fan_in, depth, ray.get(level[0]))


@ray.remote
def chunk(i):
    return np.arange(i * 100_000, (i + 1) * 100_000, dtype=np.int64)


@ray.remote
def total(*arrays):
    return sum(int(array.sum()) for array in arrays)


chunks = [chunk.remote(i) for i in range(6)]
print(ray.get(total.remote(*chunks)), ray.get(add.remote(*[total.remote(each) for each in chunks])))


# Each sum needs the one before: a chain.
@ray.remote(num_returns=2)
def scan(array, carry):
    sums = np.cumsum(array) + carry
    return sums, sums[-1]


carry, scanned = ray.put(0), []
for each in chunks:
    sums, carry = scan.remote(each, carry)
    scanned.append(sums)
print(np.array_equal(np.concatenate(ray.get(scanned)), np.cumsum(np.arange(600_000))), ray.get(carry))
