import ray

# ray.util.queue: producers and consumers, limits, time limits, batches.
import queue

from ray.util.queue import Empty, Full, Queue

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)

q = Queue(maxsize=3)
print(q.empty(), q.full(), len(q), q.maxsize)
for i in range(3):
    q.put(i)
print(q.empty(), q.full(), q.qsize(), q.size())
for put in (lambda: q.put_nowait(3), lambda: q.put(3, block=False), lambda: q.put(3, timeout=0.05)):
    try:
        put()
    except Full as error:
        print("Full", isinstance(error, queue.Full))
print([q.get() for _ in range(3)])
for get in (lambda: q.get_nowait(), lambda: q.get(block=False), lambda: q.get(timeout=0.05)):
    try:
        get()
    except Empty as error:
        print("Empty", isinstance(error, queue.Empty))
for bad in (lambda: q.put(1, timeout=-1), lambda: q.get(timeout=-1)):
    try:
        bad()
    except ValueError:
        print("ValueError")

q.put_nowait_batch([1, 2, 3])
print(q.get_nowait_batch(2), len(q))
for bad in (lambda: q.put_nowait_batch([1, 2, 3]), lambda: q.get_nowait_batch(5), lambda: q.put_nowait_batch(5)):
    try:
        bad()
    except (Full, Empty, TypeError) as error:
        print([each.__name__ for each in (Full, Empty, TypeError) if isinstance(error, each)])
print(q.get(), q.empty())


@ray.remote
def produce(q, start, n):
    for i in range(start, start + n):
        q.put(i)
    return n


@ray.remote
def consume(q, n):
    return [q.get(timeout=30) for _ in range(n)]


taken = [consume.remote(q, 10) for _ in range(2)]
print(sum(ray.get([produce.remote(q, 0, 10), produce.remote(q, 10, 10)])), sorted(sum(ray.get(taken), [])))

unlimited = Queue()
for i in range(100):
    unlimited.put_nowait({"i": i})
print(len(unlimited), unlimited.get()["i"], unlimited.full())
actor = Queue(actor_options={"num_cpus": 0, "name": "my queue"})
actor.put("named")
print(ray.get(ray.get_actor("my queue").qsize.remote()), actor.get())
q.shutdown()
