import ray

# Other libraries' schedulers on top of Ray: joblib, multiprocessing's Pool, as their users write them.
import math
import os
import time

from ray.util.multiprocessing import Pool

ray.init(num_cpus=3, log_to_driver=False, include_dashboard=False)


def square(x):
    return x * x


def add(x, y):
    return x + y


def fail(x):
    raise ZeroDivisionError(f"at {x}")


def set_up(k):
    os.environ["POOL_FACTOR"] = k


def use_state(x):
    return x * int(os.environ["POOL_FACTOR"])


with Pool(2) as pool:
    print(pool.map(square, range(8)))
    print(pool.map(square, range(8), chunksize=3))
    print(pool.starmap(add, [(1, 2), (3, 4)]))
    print(list(pool.imap(square, range(5), chunksize=2)), sorted(pool.imap_unordered(square, range(5))))
    print(pool.apply(add, (1,), {"y": 5}), pool.apply_async(math.factorial, (5,)).get(timeout=20))
    result = pool.map_async(square, range(4))
    result.wait(20)
    print(result.ready(), result.successful(), result.get())
    try:
        pool.map(fail, [1])
    except ZeroDivisionError as e:
        print("ZeroDivisionError")
    failed = pool.apply_async(fail, (2,))
    failed.wait(20)
    print(failed.successful())
    got = []
    pool.apply_async(square, (7,), callback=got.append).get(20)
    for _ in range(100):
        if got:
            break
        time.sleep(0.05)
    print(got)
with Pool(2, initializer=set_up, initargs=("10",)) as pool:
    print(pool.map(use_state, range(4)))
pool = Pool(2)
pool.close()
try:
    pool.map(square, [1])
except ValueError as e:
    print("ValueError", e)
pool.join()
pool = Pool(1)
try:
    pool.join()
except ValueError as e:
    print("ValueError", e)
pool.terminate()
for bad in (0, -1, 99):
    try:
        Pool(bad)
    except ValueError as e:
        print("ValueError", bad)
ray.shutdown()
