import ray

# ray.util.ActorPool.
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self):
        self.done = 0

    def double(self, x):
        self.done += 1
        return 2 * x

    def slow(self, x):
        time.sleep(x)
        return x

    def fail(self, x):
        if x == 2:
            raise ValueError("two")
        return x

    def how_many(self):
        return self.done


workers = [Worker.remote() for _ in range(3)]
pool = ray.util.ActorPool(workers)
print(list(pool.map(lambda a, x: a.double.remote(x), range(10))))
print(sorted(pool.map_unordered(lambda a, x: a.double.remote(x), range(10))))
print(sum(ray.get([worker.how_many.remote() for worker in workers])))
print(list(pool.map(lambda a, x: a.double.remote(x), [])), pool.has_next(), pool.has_free())
print(list(pool.map_unordered(lambda a, x: a.slow.remote(x), [1.0, 0.0]))[0])

for i in range(5):
    pool.submit(lambda a, x: a.double.remote(x), i)
print(pool.has_next(), pool.has_free())
print([pool.get_next() for _ in range(5)], pool.has_next(), pool.has_free())
for get in (pool.get_next, pool.get_next_unordered):
    try:
        get()
    except StopIteration as error:
        print(type(error).__name__, error)

pool.submit(lambda a, x: a.slow.remote(x), 1.0)
try:
    pool.get_next(timeout=0.1)
except TimeoutError as error:
    print(type(error).__name__)
print(pool.get_next())

for i in range(4):
    pool.submit(lambda a, x: a.fail.remote(x), i)
results = []
while pool.has_next():
    try:
        results.append(pool.get_next())
    except ValueError as error:
        results.append(type(error).__name__)
print(results, pool.has_free())

idle = pool.pop_idle()
print(idle in workers, [pool.pop_idle() is not None for _ in range(3)], pool.has_free())
pool.push(idle)
try:
    pool.push(idle)
except ValueError as error:
    print(type(error).__name__)
pool.submit(lambda a, x: a.double.remote(x), 100)
print(pool.get_next_unordered())

# An index next to each value, so that results can be put in order.
pool = ray.util.ActorPool([Worker.remote() for _ in range(2)])


@ray.remote
def shift(x):
    return x + 1


refs = [shift.remote(i) for i in range(6)]
print(list(pool.map(lambda a, ref: a.double.remote(ref), refs)))
