import ray
# A chain of actors, each of which filters the multiples of one prime and starts the next.

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote(num_cpus=0)
class Filter:
    def __init__(self, prime):
        self.prime, self.next = prime, None

    def offer(self, n):
        if n % self.prime == 0:
            return
        if self.next is None:
            self.next = Filter.remote(n)
        else:
            ray.get(self.next.offer.remote(n))

    def primes(self):
        rest = ray.get(self.next.primes.remote()) if self.next else []
        return [self.prime, *rest]


first = Filter.remote(2)
for n in range(3, 24):
    first.offer.remote(n)
print(ray.get(first.primes.remote()))
