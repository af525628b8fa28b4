import ray

# What libraries take from Ray's private corners, and set there.
import asyncio
import inspect

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, _memory=200 * 2**20)
print(ray._raylet.ObjectRef is ray.ObjectRef, isinstance(ray.put(1), ray._raylet.ObjectRef))
print(ray._private.services.get_node_ip_address() == ray.util.get_node_ip_address())
print(ray.cluster_resources()["memory"] == 200 * 2**20, ray.logger.name)


@ray.remote
def double(x: int, *, times: int = 2) -> int:
    """Doubles."""
    return x * times


double._function_name = "renamed"
print(double._function_name, ray.get(double.remote(4)))
print(inspect.signature(double.remote), double.remote.__doc__, double.remote.__name__)
call = double.remote
print(ray.get(call(5, times=3)))


# The constructor of an async actor runs on the actor's loop.
@ray.remote
class Server:
    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.queue = asyncio.Queue()
        self.worker = asyncio.create_task(self.work())

    async def work(self):
        while True:
            value, future = await self.queue.get()
            future.set_result(value * 10)

    async def ask(self, value):
        future = asyncio.get_running_loop().create_future()
        await self.queue.put((value, future))
        return await future

    async def same_loop(self):
        return asyncio.get_running_loop() is self.loop


server = Server.remote()
print(ray.get([server.ask.remote(n) for n in range(4)]), ray.get(server.same_loop.remote()))
try:
    ray.workflow
except RuntimeError as error:
    print(type(error).__mro__[-3].__name__ in ("RuntimeError", "Exception"), "2.47" in str(error))
