import ray

# Parameter servers: in step, out of step, and in shards.
import numpy as np

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
truth = np.arange(1.0, 5.0)


@ray.remote(num_cpus=0)
class Server:
    def __init__(self, size, rate):
        self.weights, self.rate, self.updates = np.zeros(size), rate, 0

    def apply(self, *gradients):
        # What came out of the store cannot be written to; a new array is made.
        self.weights = self.weights - self.rate * np.mean(gradients, axis=0)
        self.updates += 1
        return self.weights

    def pull(self):
        return self.weights

    def count(self):
        return self.updates


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, seed):
        self.random = np.random.RandomState(seed)

    def gradient(self, weights):
        x = self.random.randn(64, len(weights))
        return x.T @ (x @ (weights - truth)) / len(x)


workers = [Worker.remote(seed) for seed in range(3)]

# In step: nothing is fetched by the driver; references go from actor to actor.
server = Server.remote(4, 0.5)
weights = server.pull.remote()
for _ in range(40):
    weights = server.apply.remote(*[worker.gradient.remote(weights) for worker in workers])
print("in step", np.round(ray.get(weights), 2), ray.get(server.count.remote()))

# Out of step: whoever is ready is served.
server = Server.remote(4, 0.3)
weights = server.pull.remote()
pending = {worker.gradient.remote(weights): worker for worker in workers}
for _ in range(120):
    [ready], _ = ray.wait(list(pending))
    worker = pending.pop(ready)
    weights = server.apply.remote(ready)
    pending[worker.gradient.remote(weights)] = worker
print("out of step", np.round(ray.get(server.pull.remote()), 1), ray.get(server.count.remote()))

# In shards: a vector that is split over servers.
shards = [Server.remote(2, 1.0) for _ in range(2)]


@ray.remote
def toward(target, *parts):
    whole = np.concatenate(parts)
    return np.split(whole - target, 2)


for _ in range(3):
    halves = toward.options(num_returns=2).remote(truth, *[shard.pull.remote() for shard in shards])
    ray.get([shard.apply.remote(half) for shard, half in zip(shards, halves)])
print("shards", [part.tolist() for part in ray.get([shard.pull.remote() for shard in shards])])
