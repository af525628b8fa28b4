import ray

# Threads: in the driver, in tasks, and in actors that run several calls at once.
import concurrent.futures
import threading
import time

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def square(x):
    return x * x


def ask(x):
    return ray.get(square.remote(x))


with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(list(pool.map(ask, range(20))))


@ray.remote(max_concurrency=4)
class Meeting:
    """Four calls must be inside at once, or nobody gets out."""

    def __init__(self):
        self.barrier = threading.Barrier(4, timeout=30)
        self.threads = set()

    def meet(self):
        self.barrier.wait()
        self.threads.add(threading.get_ident())
        return True

    def how_many_threads(self):
        return len(self.threads)


meeting = Meeting.remote()
print(ray.get([meeting.meet.remote() for _ in range(8)]).count(True), ray.get(meeting.how_many_threads.remote()) <= 4)


# A thread that an actor starts, and its own calls to others.
@ray.remote
class Background:
    def __init__(self):
        self.seen, self.stop = [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def start(self):
        self.thread.start()

    def run(self):
        for i in range(5):
            self.seen.append(ray.get(square.remote(i)))
        self.stop.set()

    def result(self):
        self.stop.wait(30)
        return self.seen


background = Background.remote()
ray.get(background.start.remote())
print(ray.get(background.result.remote()))


@ray.remote
def threaded(n):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, range(n)))


print(ray.get(threaded.remote(6)))


# One lock, many callers.
@ray.remote(max_concurrency=8)
class Counter:
    def __init__(self):
        self.n, self.lock = 0, threading.Lock()

    def add(self):
        with self.lock:
            n = self.n
            time.sleep(0.0005)
            self.n = n + 1

    def get(self):
        return self.n


counter = Counter.remote()
threads = [threading.Thread(target=lambda: ray.get([counter.add.remote() for _ in range(10)])) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(ray.get(counter.get.remote()))

# Callers that don't wait keep their order in an actor with one thread.


@ray.remote
class Log:
    def __init__(self):
        self.lines = []

    def add(self, who, i):
        self.lines.append((who, i))

    def lines_of(self, who):
        return [i for name, i in self.lines if name == who]


@ray.remote
def write(log, who, n):
    refs = [log.add.remote(who, i) for i in range(n)]
    ray.get(refs)


log = Log.remote()
ray.get([write.remote(log, who, 30) for who in "abc"])
print([ray.get(log.lines_of.remote(who)) == list(range(30)) for who in "abc"])
