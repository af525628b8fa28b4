import ray

# How libraries on top of Ray use its core: private attributes of handles, labels of options, runtime context, helpers.
import sys

from ray import ObjectRef
from ray.actor import ActorClass, ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.remote_function import RemoteFunction
from ray.util import ActorPool
from ray.util.annotations import DeveloperAPI, PublicAPI
from ray.util.queue import Empty, Full, Queue

ray.init(num_cpus=3, log_to_driver=False, include_dashboard=False, namespace="library")


@ray.remote(num_cpus=0)
class Executor:
    """Runs whatever it is given."""

    def __init__(self):
        self.state = {}

    def execute(self, function, *args, **kwargs):
        return function(self, *args, **kwargs)


executor = Executor.options(name="executor", get_if_exists=True).remote()
print(isinstance(Executor, ActorClass), isinstance(executor, ActorHandle))
print(executor._actor_id.hex() == executor._ray_actor_id.hex(), len(executor._actor_id.binary()))
print(ray.get(executor.__ray_ready__.remote()))
print(ray.get(executor.__ray_call__.remote(lambda self: len(self.state))))
print(ray.get(executor.execute.remote(lambda self, k, v=0: self.state.setdefault(k, v), "a", v=5)))
print(repr(executor).startswith("Actor(Executor, "))
same = Executor.options(name="executor", get_if_exists=True).remote()
print(same == executor, hash(same) == hash(executor), {same: 1}[executor])
print(ray.util.list_named_actors(), ray.util.list_named_actors(all_namespaces=True))


@ray.remote
def f(x, *, k=2):
    """Doubles."""
    return x * k


print(isinstance(f, RemoteFunction), f._function(3), f._function.__doc__, f._function_name.rpartition(".")[2])
print(ray.get(f._remote(args=(2,), kwargs={"k": 5}, num_cpus=1, name="renamed")))
print(f._default_options.get("num_cpus"), f.options(num_cpus=2) is not f)


@ray.remote
def where():
    context = ray.get_runtime_context()
    return (
        context.get_task_name(),
        context.get_task_function_name().rpartition(".")[2],
        context.get_actor_id(),
        context.namespace,
        context.get_assigned_resources(),
        len(context.get_task_id()),
        len(context.get_worker_id()),
        len(context.get_node_id()),
        len(context.get_job_id()),
    )


print(ray.get(where.options(name="here", num_cpus=2).remote()))


# Exceptions.
class Mine(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code


@ray.remote
def fail():
    raise Mine(7, "seven")


try:
    ray.get(fail.remote())
except Mine as e:
    print(isinstance(e, RayTaskError), isinstance(e, RayError), e.code, e.cause.code, e.cause.args)
try:
    ray.get(fail.options(max_retries=0).remote())
except RayTaskError as e:
    print(e.as_instanceof_cause().code)


# Actor death in its varieties.
@ray.remote(num_cpus=0, max_restarts=0)
class Mortal:
    def __init__(self, ok=True):
        if not ok:
            raise RuntimeError("no")

    def exit(self):
        ray.actor.exit_actor()

    def ping(self):
        return "pong"


mortal = Mortal.remote()
print(ray.get(mortal.ping.remote()))
mortal.exit.remote()
try:
    ray.get(mortal.ping.remote())
except RayActorError as e:
    print(type(e).__name__, e.actor_init_failed, e.actor_id == mortal._actor_id.hex())
stillborn = Mortal.remote(ok=False)
try:
    ray.get(stillborn.ping.remote())
except RayActorError as e:
    print(type(e).__name__, e.actor_init_failed, "no" in str(e))
killed = Mortal.remote()
ray.get(killed.ping.remote())
ray.kill(killed)
try:
    ray.get(killed.ping.remote())
except RayActorError as e:
    print(type(e).__name__, "ray.kill" in str(e))

# Pools and queues.
pool = ActorPool([Executor.remote() for _ in range(2)])
print(list(pool.map(lambda a, v: a.execute.remote(lambda self, x: x + 1, v), range(5))))
print(sorted(pool.map_unordered(lambda a, v: a.execute.remote(lambda self, x: x * x, v), range(5))))
pool.submit(lambda a, v: a.execute.remote(lambda self, x: -x, v), 9)
print(pool.has_next(), pool.get_next(), pool.has_next(), pool.has_free())
queue = Queue(maxsize=2)


@ray.remote
def produce(queue, n):
    for i in range(n):
        queue.put(i)
    return n


produced = produce.remote(queue, 4)
print([queue.get(timeout=10) for _ in range(4)], ray.get(produced), queue.empty(), queue.qsize())
for step in (lambda: queue.get_nowait(), lambda: queue.get(timeout=0.05), lambda: queue.put_nowait_batch([1, 2, 3])):
    try:
        step()
    except (Empty, Full) as e:
        print("Empty" if isinstance(e, Empty) else "Full")
queue.shutdown()


# Annotations.
@PublicAPI(stability="beta")
def public():
    """Public."""


@DeveloperAPI
class Developer:
    """For developers."""


print(
    public._annotated,
    public._annotated_type.value if hasattr(public._annotated_type, "value") else "",
    Developer._annotated,
)

# Ids.
ref = ray.put(1)
print(
    len(ref.binary()),
    len(ref.hex()),
    ref.is_nil(),
    ObjectRef(ref.binary()) == ref,
    ref.task_id().job_id() == ref.job_id(),
)
print(ray.ObjectRef is ray.ObjectID, ray.JobID.from_int(1).int(), ray.ActorID.nil().is_nil(), ray.NodeID.size())
try:
    ray.TaskID(b"short")
except ValueError as e:
    print("ValueError")
try:
    ray.get(f.options(num_cpus=3).remote(1) if sys.maxsize else None, timeout=20)
    ray.get(ray.remote(lambda: __import__("time").sleep(5)).remote(), timeout=0.1)
except GetTimeoutError as e:
    print("GetTimeoutError")
ray.shutdown()
