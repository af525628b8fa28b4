"""A parameter server: an actor holds a model's weights, workers compute gradients on their own share of the data.

First in step (all gradients of a round are averaged), then out of step (each gradient is applied as it comes in).
The data are made up: points on a plane with noise, so the right answer is known.
"""

import numpy as np
import numpy.typing as npt
import ray_rs as ray
from ray_rs.actor import ActorProxy

FEATURES, POINTS, WORKERS = 8, 4000, 4
Array = npt.NDArray[np.float64]
TRUTH: Array = np.linspace(-2, 2, FEATURES)


class ParameterServer:
    def __init__(self, rate: float) -> None:
        self.weights: Array = np.zeros(FEATURES)
        self.rate = rate

    @ray.method
    def apply(self, *gradients: Array) -> Array:
        self.weights = self.weights - self.rate * np.mean(gradients, axis=0)
        return self.weights

    @ray.method
    def read(self) -> Array:
        return self.weights


class Worker:
    """Keeps its share of the data, so that only weights and gradients travel."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.x = random.normal(size=(POINTS, FEATURES))
        self.y = self.x @ TRUTH + random.normal(scale=0.1, size=POINTS)

    @ray.method
    def gradient(self, weights: Array) -> Array:
        return self.x.T @ (self.x @ weights - self.y) / POINTS

    @ray.method
    def loss(self, weights: Array) -> float:
        return float(np.mean((self.x @ weights - self.y) ** 2))


ServerActor = ray.remote(ParameterServer)
WorkerActor = ray.remote(Worker)


def in_step(server: ActorProxy[ParameterServer], workers: list[ActorProxy[Worker]], rounds: int) -> Array:
    weights = server.read.remote()
    for _ in range(rounds):
        # A reference to the weights goes to the workers, references to their gradients to the server.
        weights = server.apply.remote(*[worker.gradient.remote(weights) for worker in workers])
    return ray.get(weights)


def out_of_step(server: ActorProxy[ParameterServer], workers: list[ActorProxy[Worker]], steps: int) -> Array:
    weights = server.read.remote()
    busy = {worker.gradient.remote(weights): worker for worker in workers}
    for _ in range(steps):
        (ready,), _ = ray.wait(list(busy))
        worker = busy.pop(ready)
        busy[worker.gradient.remote(server.apply.remote(ready))] = worker
    return ray.get(server.read.remote())


def main() -> None:
    ray.init()
    workers = [WorkerActor.options(num_cpus=0).remote(seed) for seed in range(WORKERS)]
    for name, train, steps in (("in step", in_step, 60), ("out of step", out_of_step, 240)):
        server = ServerActor.options(num_cpus=0).remote(rate=0.2)
        weights = train(server, workers, steps)
        loss = np.mean(ray.get([worker.loss.remote(weights) for worker in workers]))
        print(f"{name:12} loss {loss:.4f}, largest error of a weight {np.abs(weights - TRUTH).max():.4f}")
        assert loss < 0.02
    ray.shutdown()


if __name__ == "__main__":
    main()
