"""Import, init, first task, shutdown: each as a bare script sees it.

Nothing but `sys`, `time` and `os` is imported before the clock starts, or the engine would be spared what its own
import needs. The first task proves by its pid that it ran elsewhere; it imports nothing in the worker.
"""

import os
import sys
import time

engine, cores = sys.argv[1], int(sys.argv[2])
clock = time.perf_counter

began = clock()
ray = __import__(engine)
imported = clock()
ray.init(num_cpus=cores, include_dashboard=False)
started = clock()


def first():
    import os

    return os.getpid()


before = clock()
pid = ray.get(ray.remote(first).remote())
answered = clock()
assert pid != os.getpid(), "the first task ran in the driver itself"
ray.shutdown()
ended = clock()
print("TIMES", imported - began, started - imported, answered - before, ended - answered)
