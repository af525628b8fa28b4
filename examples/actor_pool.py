"""A pool of actors: work is handed to whichever actor is free, and results are taken in the order they are finished.

Each actor loads something expensive once (here: a table of primes) and uses it for many requests.
"""

import random
from collections.abc import Iterable, Iterator

import ray_rs as ray
from ray_rs import ObjectRef
from ray_rs.actor import ActorProxy


class Factoriser:
    def __init__(self, limit: int) -> None:
        sieve = bytearray([1]) * (limit + 1)
        for n in range(2, int(limit**0.5) + 1):
            if sieve[n]:
                sieve[n * n :: n] = bytes(len(sieve[n * n :: n]))
        self.primes = [n for n in range(2, limit + 1) if sieve[n]]
        self.served = 0

    @ray.method
    def factorise(self, number: int) -> tuple[int, list[int]]:
        self.served += 1
        factors: list[int] = []
        rest = number
        for prime in self.primes:
            if prime * prime > rest:
                break
            while rest % prime == 0:
                factors.append(prime)
                rest //= prime
        return number, [*factors, rest] if rest > 1 else factors

    @ray.method
    def how_many(self) -> int:
        return self.served


FactoriserActor = ray.remote(Factoriser)


def map_unordered(actors: list[ActorProxy[Factoriser]], numbers: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
    """Yields results as they are finished; never more than one request waits at an actor."""
    numbers = iter(numbers)
    busy: dict[ObjectRef[tuple[int, list[int]]], ActorProxy[Factoriser]] = {}
    for actor, number in zip(actors, numbers, strict=False):
        busy[actor.factorise.remote(number)] = actor
    while busy:
        (ready,), _ = ray.wait(list(busy))
        actor = busy.pop(ready)
        for number in numbers:
            busy[actor.factorise.remote(number)] = actor
            break
        yield ray.get(ready)


def main() -> None:
    ray.init()
    numbers = [random.Random(i).randrange(10**8, 10**10) for i in range(300)]
    actors = [FactoriserActor.options(num_cpus=0).remote(100_000) for _ in range(4)]
    results = dict(map_unordered(actors, numbers))

    for number, factors in results.items():
        product = 1
        for factor in factors:
            product *= factor
        assert product == number
    hardest = max(results, key=lambda number: results[number][-1])
    print(f"{len(results)} numbers factorised; largest prime factor: {results[hardest][-1]:,} of {hardest:,}")
    print("each actor served:", ray.get([actor.how_many.remote() for actor in actors]))
    ray.shutdown()


if __name__ == "__main__":
    main()
