import ray

# A search for hyperparameters: trials in flight are limited, the best is kept, and hopeless trials are stopped early.
import random

ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)


@ray.remote
def evaluate(config):
    if config["rate"] > 0.95:
        raise ValueError("diverged")
    return config, 1 - abs(config["rate"] - 0.3) - abs(config["depth"] - 4) / 10


random.seed(7)
trials = [{"rate": random.random(), "depth": random.randint(1, 8)} for _ in range(40)] + [{"rate": 0.99, "depth": 1}]
running, best, failed, most = {}, (None, -1), 0, 0
queue = list(trials)
while queue or running:
    while queue and len(running) < 4:
        config = queue.pop(0)
        running[evaluate.remote(config)] = config
    most = max(most, len(running))
    ready, _ = ray.wait(list(running), num_returns=1)
    for ref in ready:
        running.pop(ref)
        try:
            config, score = ray.get(ref)
        except ValueError:
            failed += 1
            continue
        if score > best[1]:
            best = config, score
print(most, best[0]["depth"], round(best[0]["rate"], 3), failed == sum(t["rate"] > 0.95 for t in trials))


# Successive halving: the better half goes on.
@ray.remote(num_cpus=0)
class Trial:
    def __init__(self, slope):
        self.slope, self.score = slope, 0

    def train(self, steps):
        self.score += self.slope * steps
        return self.score


alive = {Trial.remote(slope): slope for slope in range(1, 9)}
rounds = []
while len(alive) > 1:
    scores = dict(zip(alive, ray.get([trial.train.remote(10) for trial in alive])))
    ranked = sorted(scores, key=scores.get, reverse=True)
    for loser in ranked[len(ranked) // 2 :]:
        ray.kill(loser)
        del alive[loser]
    rounds.append(sorted(alive.values()))
print(rounds)
