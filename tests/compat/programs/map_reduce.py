import ray

# Counting words: a map with as many returns as there are reducers, then one task for each reducer.
import collections
import zlib

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
LINES = ["the quick brown fox", "jumps over the lazy dog", "the dog sleeps", "the fox does not"] * 25
REDUCERS = 3


@ray.remote
def map_words(lines):
    parts = [collections.Counter() for _ in range(REDUCERS)]
    for line in lines:
        for word in line.split():
            parts[zlib.crc32(word.encode()) % REDUCERS][word] += 1
    return parts


@ray.remote
def reduce_counts(*counts):
    return sum(counts, collections.Counter())


@ray.remote
class Collector:
    def __init__(self):
        self.counts = collections.Counter()

    def add(self, part):
        self.counts.update(part)
        return len(self.counts)

    def top(self, n):
        return self.counts.most_common(n)


chunks = [LINES[i : i + 20] for i in range(0, len(LINES), 20)]
mapped = [map_words.options(num_returns=REDUCERS).remote(chunk) for chunk in chunks]
reduced = [reduce_counts.remote(*[parts[i] for parts in mapped]) for i in range(REDUCERS)]
collector = Collector.remote()
print(max(ray.get([collector.add.remote(part) for part in reduced])))
print(ray.get(collector.top.remote(1)))
everything = sum(ray.get(reduced), collections.Counter())
print(sorted(everything.items())[:4], sum(everything.values()))
