import ray

# A crawler: workers take addresses from a queue, an actor knows what was seen, and the driver stops when all is done.
from ray.util.queue import Empty, Queue

ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)
SITE = {f"/{i}": [f"/{i * 2}", f"/{i * 2 + 1}"] if i < 16 else ["/1", "/gone"] for i in range(1, 32)}


@ray.remote(num_cpus=0)
class Frontier:
    def __init__(self, queue):
        self.queue, self.seen, self.open = queue, set(), 0
        self.dead = []

    def offer(self, urls):
        for url in urls:
            if url not in self.seen:
                self.seen.add(url)
                self.open += 1
                self.queue.put_nowait(url)

    def done(self, url, links):
        if links is None:
            self.dead.append(url)
        else:
            self.offer(links)
        self.open -= 1
        return self.open

    def result(self):
        return sorted(self.seen), self.dead


@ray.remote
def fetch(url):
    return SITE[url]


@ray.remote(num_cpus=0)
def crawl(queue, frontier):
    while True:
        try:
            url = queue.get(timeout=20)
        except Empty:
            return "starved"
        if url is None:
            return "stopped"
        try:
            links = ray.get(fetch.remote(url))
        except KeyError:
            links = None
        if ray.get(frontier.done.remote(url, links)) == 0:
            queue.put_nowait_batch([None] * 3)


queue = Queue()
frontier = Frontier.remote(queue)
ray.get(frontier.offer.remote(["/1"]))
print(ray.get([crawl.remote(queue, frontier) for _ in range(3)]))
seen, dead = ray.get(frontier.result.remote())
print(len(seen), seen[:5], dead)
queue.shutdown()
