import ray

# Resources: how many may run at once, what a program can learn about the cluster and about itself.
import time

ray.init(num_cpus=2, resources={"licence": 2, "slot": 3}, log_to_driver=False, include_dashboard=False, namespace="n")
total = ray.cluster_resources()
print(
    total["CPU"], total["licence"], total["slot"], "GPU" in total, total["memory"] > 0, total["object_store_memory"] > 0
)
(node,) = ray.nodes()
print(node["Alive"], node["Resources"]["CPU"], len(node["NodeID"]))


@ray.remote(num_cpus=0)
class Watch:
    def __init__(self):
        self.inside, self.most = 0, 0

    def enter(self):
        self.inside += 1
        self.most = max(self.most, self.inside)

    def leave(self):
        self.inside -= 1

    def most_at_once(self):
        most, self.most = self.most, 0
        return most


watch = Watch.remote()


@ray.remote
def work():
    ray.get(watch.enter.remote())
    time.sleep(0.05)
    ray.get(watch.leave.remote())


def most_at_once(n=8, **options):
    ray.get([work.options(**options).remote() for _ in range(n)])
    return ray.get(watch.most_at_once.remote())


print(most_at_once(num_cpus=0, resources={"licence": 1}) <= 2)
print(most_at_once(num_cpus=0, resources={"licence": 2}) == 1, most_at_once(num_cpus=0, resources={"slot": 1.6}) == 1)
print(most_at_once(num_cpus=0, resources={"slot": 0.7}) <= 4)


# What is in use is not available.
@ray.remote(num_cpus=1, resources={"licence": 1})
class Holder:
    def ready(self):
        return ray.get_runtime_context().get_assigned_resources()


def until(condition):
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


holder = Holder.remote()
print(sorted(ray.get(holder.ready.remote()).items()))
print(until(lambda: ray.available_resources().get("CPU") == 1.0 and ray.available_resources().get("licence") == 1.0))
del holder
print(until(lambda: ray.available_resources().get("CPU") == 2.0 and ray.available_resources().get("licence") == 2.0))


# What a task knows about itself.
@ray.remote
def whoami():
    context = ray.get_runtime_context()
    return (
        context.get_task_name(),
        context.get_actor_id(),
        context.get_job_id(),
        context.namespace,
        len(context.get_task_id()),
        context.get_node_id(),
        context.get_assigned_resources(),
    )


name, actor, job, namespace, length, node_id, assigned = ray.get(whoami.remote())
context = ray.get_runtime_context()
print(name, actor, job == context.get_job_id(), namespace, length, node_id == node["NodeID"], assigned)
print(ray.get(whoami.options(name="renamed", num_cpus=0.5).remote())[0], context.namespace)


@ray.remote
class Self:
    def whoami(self):
        context = ray.get_runtime_context()
        me = context.current_actor
        return (
            context.get_actor_name(),
            context.get_task_name(),
            len(context.get_actor_id()),
            repr(me).startswith("Actor("),
        )


print(ray.get(Self.remote().whoami.remote()), ray.get(Self.options(name="me").remote().whoami.remote()))
for bad in ({"num_cpus": -1}, {"resources": {"CPU": 1}}, {"num_cpus": "1"}, {"resources": {"licence": -1}}):
    try:
        work.options(**bad)
    except (ValueError, TypeError) as error:
        print(type(error).__name__)

# More than there is waits for ever, and hinders nobody.
impossible = work.options(resources={"moon": 1}).remote()
print(ray.wait([impossible], timeout=0.3)[0], ray.get(whoami.remote())[0])
ray.shutdown()
print(ray.is_initialized())
