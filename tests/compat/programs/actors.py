import ray

# A tour of actors.
import asyncio
import collections

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, namespace="compat")


@ray.remote
class Account:
    def __init__(self, owner, balance=0):
        self.owner, self.balance = owner, balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError(f"cannot deposit {amount}")
        self.balance += amount
        return self.balance

    def send(self, other, amount):
        self.balance -= amount
        return ray.get(other.deposit.remote(amount))

    def __repr__(self):
        return f"Account({self.owner})"


ann, bob = Account.remote("Ann", 100), Account.remote("Bob")
print(ray.get([ann.deposit.remote(i) for i in range(1, 5)]))
print(ray.get(ann.send.remote(bob, 50)))
try:
    ray.get(bob.deposit.remote(-1))
except ValueError as error:
    print(type(error).__name__, error.cause)
print(ray.get(bob.deposit.remote(1)))


@ray.remote
class Supervisor:
    def __init__(self):
        self.workers = [Account.remote(f"w{i}") for i in range(3)]

    def work(self):
        return ray.get([w.deposit.remote(i + 1) for i, w in enumerate(self.workers)])


supervisor = Supervisor.remote()
print(ray.get(supervisor.work.remote()), ray.get(supervisor.work.remote()))

# Named.
Account.options(name="bank", lifetime="detached").remote("Bank", 1000)
print(ray.get(ray.get_actor("bank").deposit.remote(1)))
again = Account.options(name="bank", get_if_exists=True).remote("Other", 0)
print(ray.get(again.deposit.remote(1)))
try:
    Account.options(name="bank").remote("Third")
except ValueError as error:
    print(type(error).__name__)
ray.kill(again)
try:
    while True:  # Ray may still answer a call or two
        ray.get(again.deposit.remote(1))
except ray.exceptions.RayActorError as error:
    print(type(error).__name__, isinstance(error, ray.exceptions.ActorDiedError))


# Async.
@ray.remote
class Chat:
    def __init__(self):
        self.inbox = collections.deque()
        self.arrived = asyncio.Event()

    async def receive(self):
        await self.arrived.wait()
        return self.inbox.popleft()

    async def send(self, text):
        self.inbox.append(text)
        self.arrived.set()
        return len(self.inbox)


chat = Chat.remote()
message = chat.receive.remote()
print(ray.wait([message], timeout=0.2)[0], ray.get(chat.send.remote("hi")), ray.get(message))


# The constructor fails.
@ray.remote
class Broken:
    def __init__(self):
        raise RuntimeError("broken from the start")

    def f(self):
        return 1


try:
    ray.get(Broken.remote().f.remote())
except ray.exceptions.ActorDiedError as error:
    print(type(error).__name__, "broken from the start" in str(error))


# Many callers.
@ray.remote
class Tally:
    def __init__(self):
        self.counts = collections.Counter()

    def vote(self, name):
        self.counts[name] += 1

    def result(self):
        return sorted(self.counts.items())


@ray.remote
def voters(tally, name, n):
    ray.get([tally.vote.remote(name) for _ in range(n)])


tally = Tally.remote()
ray.get([voters.remote(tally, name, 25) for name in "abcd"])
print(ray.get(tally.result.remote()))
print(repr(tally).startswith("Actor(Tally, "), tally == ray.get(ray.put(tally)))
