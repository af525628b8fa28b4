import ray

# What comes back when user code raises.
import os

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


class Custom(Exception):
    def __init__(self, message, code):
        super().__init__(message, code)
        self.code = code


@ray.remote
def fail(kind):
    if kind == "custom":
        raise Custom("custom message", 7)
    if kind == "chain":
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("wrapped") from error
    raise kind


@ray.remote
def through(ref_in_list):
    return ray.get(ref_in_list[0])


@ray.remote
def depends(x):
    return x


def report(name, ref, *fragments):
    """Prints the kind of the error, and how many of the fragments its text holds, in their order."""
    try:
        ray.get(ref)
    except BaseException as error:
        print(f"== {name}: {type(error).__name__} cause={type(error.cause).__name__}")
        print([base.__name__ for base in type(error).__mro__[1:4]])
        text, at, found = str(error), 0, 0
        for fragment in fragments:
            if fragment not in text[at:]:
                print("missing:", fragment)
                break
            at = text.index(fragment, at) + len(fragment)
            found += 1
        print(f"{found} of {len(fragments)} fragments in order")
        return error


custom = report(
    "custom", fail.remote("custom"), "ray::fail()", "pid=", "in fail", 'raise Custom("custom', "('custom message', 7)"
)
print(custom.code, custom.cause.args, custom.args == (custom.cause,))
report("chain", fail.remote("chain"), "KeyError: 'missing'", "direct cause of the following", "RuntimeError: wrapped")
report("zero", fail.remote(ZeroDivisionError("zero")), "ray::fail()", "raise kind", "ZeroDivisionError: zero")
nested = through.remote([fail.remote(ValueError("inner"))])
report("nested get", nested, "ray::through()", "in through", "ray::fail()", "raise kind", "ValueError: inner")
argument = depends.remote(fail.remote(ValueError("argument")))
report(
    "argument", argument, "ray::depends()", "At least one of the input arguments", "ray::fail()", "ValueError: argument"
)
report("base", fail.remote(Exception("just an exception")), "ray::fail()", "Exception: just an exception")


@ray.remote(max_retries=0)
def crash():
    os._exit(1)


try:
    ray.get(crash.remote())
except ray.exceptions.WorkerCrashedError as error:
    print(type(error).__name__)


@ray.remote
class Actor:
    def fail(self):
        raise KeyError("in actor")


try:
    ray.get(Actor.remote().fail.remote())
except KeyError as error:
    print(type(error).__name__, error.cause.args, "Actor.fail" in str(error))

value = ray.get(ray.put(ValueError("a value")))
print(type(value).__name__)
