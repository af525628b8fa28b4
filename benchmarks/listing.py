"""Looks at a session in which 100,000 tasks have ended."""

import os
import time
import warnings

TASKS = 100_000


def listing(ray, record, wanted, rounds, quick):
    """Time of each look; `wanted` names the rows. Only for ray_rs: Ray asks its dashboard, which does not run here."""
    if ray.__name__ != "ray_rs":
        return
    from ray_rs.util import state

    warnings.simplefilter("ignore", RuntimeWarning)
    count = TASKS // 10 if quick else TASKS

    @ray.remote
    def nothing():
        pass

    for _ in range(count // 1000):
        ray.get([nothing.remote() for _ in range(1000)])
    looks = {
        "list_tasks(limit=100) of 100k": lambda: state.list_tasks(limit=100, raise_on_missing_output=False),
        "summarize_tasks of 100k": state.summarize_tasks,
        "timeline of 100k to a file": lambda: ray.timeline(os.devnull),
    }
    for name, look in looks.items():
        for _ in range(rounds if wanted(name) else 0):
            began = time.perf_counter()
            look()
            record(name, (time.perf_counter() - began) * 1e3)
