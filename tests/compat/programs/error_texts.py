import ray

# Every mistake that has a text users match on: the type, and the words that stay the same.
import threading

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def f(x=0):
    return x


@ray.remote
class A:
    def m(self, x=0):
        return x


def say(name, call, *words):
    try:
        call()
    except Exception as error:
        text = str(error)
        print(name, type(error).__name__, [word for word in words if word in text])
    else:
        print(name, "no error")


class NotPicklable:
    def __reduce__(self):
        raise RuntimeError("no way")


a = A.remote()
ref = ray.put(1)
say("direct call", lambda: f(), "Remote functions cannot be called directly", ".remote()")
say("direct actor", lambda: A(), "Actors cannot be instantiated directly")
say("direct method", lambda: a.m(), "Actor methods cannot be called directly")
say("missing method", lambda: a.nothing, "'ActorHandle' object has no attribute 'nothing'")
say("too many", lambda: f.remote(1, 2), "too many positional arguments")
say("unexpected", lambda: f.remote(y=1), "unexpected keyword argument", "'y'")
say("get tuple", lambda: ray.get((ref,)), "Invalid type of object refs")
say("get int in list", lambda: ray.get([1]), "Attempting to call `get` on the value")
say("put ref", lambda: ray.put(ref), "ObjectRef")
say("put lock", lambda: ray.put(threading.Lock()), "Could not serialize the put value")
say("lock argument", lambda: f.remote(threading.Lock()), "Could not serialize the argument", "for a task or actor")
say("wait ref", lambda: ray.wait(ref))
say("wait tuple", lambda: ray.wait((ref,)))
say("wait twice", lambda: ray.wait([ref, ref]), "unique")
say("wait zero", lambda: ray.wait([ref], num_returns=0))
say("wait many", lambda: ray.wait([ref], num_returns=2))
say("wait negative", lambda: ray.wait([ref], timeout=-2))
say("kill ref", lambda: ray.kill(ref), "only supported for actors")
say("cancel int", lambda: ray.cancel(1))
say("get_actor", lambda: ray.get_actor("nobody"), "Failed to look up actor with name")
say("option", lambda: f.options(nonsense=1), "Invalid option keyword nonsense for remote functions")
say("actor option", lambda: A.options(nonsense=1), "Invalid option keyword nonsense for actors")
say("task option on actor", lambda: A.options(num_returns=2), "Invalid option keyword num_returns for actors")
say(
    "actor option on task",
    lambda: f.options(max_restarts=2),
    "Invalid option keyword max_restarts for remote functions",
)
say("option type", lambda: f.options(num_cpus="2"), "The type of keyword 'num_cpus' must be")
say("negative", lambda: f.options(num_cpus=-1), "cannot be negative")
say("lifetime", lambda: A.options(lifetime="long"))
say("get_if_exists", lambda: A.options(get_if_exists=True).remote())
say("max_calls", lambda: f.options(max_calls=1), "max_calls")
say("generator", lambda: f.options(num_returns="streaming").remote(), "can only be used with generator functions")
say("method decorator", lambda: ray.method(nonsense=1)(lambda self: 1), "Unexpected keyword argument to @ray.method")
say("remote twice", lambda: ray.remote(5), "The @ray.remote decorator must be applied")
say("init twice", lambda: ray.init(), "Maybe you called ray.init twice by accident")


async def coroutine():
    pass


say("async task", lambda: ray.remote(coroutine), "'async def' should not be used for remote tasks")
