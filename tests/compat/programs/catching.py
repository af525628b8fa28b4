import ray

# Exceptions caught by whatever class fits, with what they carry, through tasks, actors and chains of both.
import asyncio

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


class AppError(Exception):
    """Base of the program's errors."""


class NotFound(AppError, KeyError):
    def __init__(self, key, hint=None):
        super().__init__(key)
        self.key, self.hint = key, hint


class Slots(AppError):
    __slots__ = ("where",)

    def __init__(self, where):
        super().__init__(where)
        self.where = where


class Spoken(AppError):
    def __str__(self):
        return "spoken words"


@ray.remote
def throw(error):
    raise error


def caught(ref, *classes):
    try:
        ray.get(ref)
    except Exception as error:
        return [each.__name__ for each in classes if isinstance(error, each)], error
    return "nothing", None


names, error = caught(throw.remote(NotFound("k", hint="h")), AppError, NotFound, KeyError, LookupError, ValueError)
print(names, error.key, error.hint, type(error.cause).__name__, error.cause.args)
names, error = caught(
    throw.remote(Slots("here")), AppError, Slots, ray.exceptions.RayTaskError, ray.exceptions.RayError
)
print(names, error.where)
names, error = caught(throw.remote(Spoken()), AppError, Spoken)
print(names, "spoken words" in str(error), str(error.cause))
names, error = caught(throw.remote(FileNotFoundError(2, "No such file", "/x")), OSError, FileNotFoundError)
print(names, error.cause.errno, error.cause.filename, error.cause.strerror)
names, error = caught(throw.remote(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")), ValueError, UnicodeError)
print(names, error.cause.reason)
names, error = caught(throw.remote(StopIteration(5)), StopIteration)
print(names, error.cause.value)
names, error = caught(throw.remote(asyncio.TimeoutError()), TimeoutError, asyncio.TimeoutError)
print(names)
names, error = caught(throw.remote(AssertionError()), AssertionError)
print(names)
names, error = caught(throw.remote(ImportError("m", name="missing_module")), ImportError)
print(names, error.cause.name)
names, error = caught(throw.remote(ZeroDivisionError), ArithmeticError, ZeroDivisionError)
print(names)


# Which `except` it ends up in.
def handle(ref):
    try:
        return ray.get(ref)
    except NotFound as error:
        return f"not found: {error.key}"
    except (ValueError, TypeError) as error:
        return f"wrong: {type(error.cause).__name__}"
    except AppError:
        return "something else"
    except ray.exceptions.RayTaskError as error:
        return f"unexpected {type(error.cause).__name__}"


for error in (NotFound("a"), ValueError("b"), TypeError("c"), Spoken(), RuntimeError("d"), Exception("e")):
    print(handle(throw.remote(error)))


# Handled in a task, raised again, and turned into another.
@ray.remote
def careful(box):
    try:
        return ray.get(box[0])
    except NotFound as error:
        return f"default for {error.key}"


@ray.remote
def again(box):
    try:
        ray.get(box[0])
    except AppError:
        raise


@ray.remote
def instead(box):
    try:
        ray.get(box[0])
    except AppError as error:
        raise ValueError("something else") from error


failing = throw.remote(NotFound("deep"))
print(ray.get(careful.remote([failing])))
names, error = caught(again.remote([failing]), NotFound, ValueError)
print(names, type(error).__name__, type(error.cause).__name__, error.key)
names, error = caught(instead.remote([failing]), NotFound, ValueError)
print(names, type(error).__name__, "direct cause" in str(error), "deep" in str(error))
names, error = caught(again.remote([again.remote([again.remote([failing])])]), NotFound)
print(names, type(error).__name__, type(error.cause).__name__)


@ray.remote
def depends(*args):
    return "ran"


names, error = caught(depends.remote(1, depends.remote(depends.remote(failing))), NotFound)
print(names, error.key)


# The first error of a list is raised, and the others can still be fetched.
refs = [depends.remote(), throw.remote(NotFound("x")), depends.remote(), throw.remote(NotFound("x"))]
names, error = caught(refs, NotFound)
print(names, [caught(ref, NotFound)[0] for ref in refs])


# Actors live on after an exception.
@ray.remote
class Account:
    def __init__(self, balance):
        if balance < 0:
            raise ValueError("a negative balance")
        self.balance = balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise NotFound(amount, hint=self.balance)
        self.balance -= amount
        return self.balance

    async def later(self):
        raise Spoken()


account = Account.remote(10)
for amount in (4, 20, 6):
    try:
        print(ray.get(account.withdraw.remote(amount)))
    except NotFound as error:
        print("too much", error.key, error.hint)
print(caught(account.later.remote(), Spoken, AppError)[0])
bad = Account.remote(-1)
for _ in range(2):
    names, error = caught(
        bad.withdraw.remote(1), ray.exceptions.RayActorError, ray.exceptions.ActorDiedError, ValueError
    )
    print(names, "a negative balance" in str(error), type(error).__name__)


# What can't be pickled costs the class, not the message.
class Locked(Exception):
    def __init__(self, message):
        import threading

        super().__init__(message)
        self.lock = threading.Lock()


class Stubborn(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@ray.remote
def throw_here(name):
    raise Locked("locked up") if name == "locked" else Stubborn("first", "second")


names, error = caught(throw_here.remote("locked"), Locked, ray.exceptions.RayTaskError)
print(names, "locked up" in str(error))
names, error = caught(throw_here.remote("stubborn"), Stubborn, ray.exceptions.RayError)
print(names, type(error).__name__, "first and second" in str(error))

# A value that is an exception is a value.
print(type(ray.get(ray.put(NotFound("v")))).__name__)
try:
    raise ray.get(ray.put(NotFound("raised here")))
except NotFound as error:
    print(error.key)
