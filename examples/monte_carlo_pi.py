"""Pi, by throwing darts: many independent tasks, and an actor that watches them on the way."""

import math
import random
import time

import ray_rs as ray
from ray_rs.actor import ActorProxy

TASKS, SAMPLES, BATCHES = 16, 60_000, 4


class Board:
    def __init__(self) -> None:
        self.hits: dict[int, int] = {}
        self.thrown: dict[int, int] = {}

    @ray.method
    def report(self, who: int, hits: int, thrown: int) -> None:
        self.hits[who], self.thrown[who] = hits, thrown

    @ray.method
    def standing(self) -> tuple[int, float]:
        thrown = sum(self.thrown.values())
        return thrown, 4 * sum(self.hits.values()) / thrown if thrown else 0.0


BoardActor = ray.remote(Board)


@ray.remote
def throw(who: int, board: ActorProxy[Board]) -> int:
    """Throws darts at a square and reports after each batch how many hit the circle in it."""
    dice = random.Random(who)
    hits = 0
    for batch in range(1, BATCHES + 1):
        for _ in range(SAMPLES // BATCHES):
            hits += dice.random() ** 2 + dice.random() ** 2 <= 1
        board.report.remote(who, hits, batch * SAMPLES // BATCHES)
    return hits


def main() -> None:
    ray.init()
    board = BoardActor.remote()
    began = time.perf_counter()
    waiting = [throw.remote(who, board) for who in range(TASKS)]
    hits = 0
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=0.2)
        hits += sum(ray.get(ready))
        thrown, estimate = ray.get(board.standing.remote())
        print(f"  {thrown:9,} of {TASKS * SAMPLES:,} darts: pi is about {estimate:.5f}")
    pi = 4 * hits / (TASKS * SAMPLES)
    print(f"pi is about {pi:.5f} (off by {abs(pi - math.pi):.5f}), found in {time.perf_counter() - began:.2f} s")
    assert abs(pi - math.pi) < 0.01
    ray.shutdown()


if __name__ == "__main__":
    main()
