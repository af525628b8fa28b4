"""A driver that joins the cluster, works, and is killed in the middle of it."""

import itertools
import sys
import time

import numpy as np
import ray_rs as ray


def main() -> None:
    while True:
        try:
            ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
            break
        except ConnectionError:
            time.sleep(0.2)

    @ray.remote(max_retries=-1)
    def work(i: int) -> np.ndarray:
        return np.full(50_000, i)

    @ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    class Holder:
        def hold(self, value: np.ndarray) -> int:
            self.value = value
            return int(value[0])

    holder = Holder.options(name="guest").remote()
    kept = []
    for i in itertools.count():
        kept.append(work.remote(i))
        assert ray.get(holder.hold.remote(kept[-1])) == i
        kept = kept[-20:]


main()
