"""`ray.init("ray://...")`: programs from outside of a cluster do what others do, through its head's one port."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import traces
from test_start_and_stop import shell, start_head  # noqa: F401 - a fixture
from under_test import command, exceptions, ray, run_driver, script, start_driver, wait_until

MIB = 2**20


@pytest.fixture
def elsewhere(monkeypatch):
    """Nothing of the sessions that were started before is to be seen from now on: as on another machine."""
    made = []

    def leave(token):
        made.append(tempfile.TemporaryDirectory(prefix="rrs-", dir="/tmp"))
        monkeypatch.setenv("RAY_RS_TMPDIR", made[-1].name)
        with open(token) as file:
            monkeypatch.setenv("RAY_RS_TOKEN", file.read())

    before = os.environ.get("RAY_RS_TMPDIR")
    yield leave
    ray.shutdown()
    if before is None:
        monkeypatch.delenv("RAY_RS_TMPDIR", raising=False)
    else:
        monkeypatch.setenv("RAY_RS_TMPDIR", before)
    for directory in made:
        wait_until(lambda left=directory.name: not os.listdir(left) or clean(left), "the client's session to be gone")
        directory.cleanup()


def clean(root):
    """Whether only logs of sessions are left."""
    sessions = [os.path.join(root, name) for name in os.listdir(root)]
    return all(os.path.islink(path) or os.listdir(path) in ([], ["logs"]) for path in sessions)


@pytest.fixture
def client(shell, elsewhere):  # noqa: F811 - the fixture
    """Starts a head with two CPUs, and makes this process its client."""

    def connect(*arguments, **init):
        address, token = start_head("--num-cpus=2", *arguments)
        elsewhere(token)
        return ray.init(f"ray://{address}", logging_level="error", namespace="tests", **init)

    return connect


@ray.remote
def add(one, other):
    return one + other


@ray.remote
def total(values):
    return float(np.sum(values))


@ray.remote(num_cpus=0)
def where():
    return ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self, start=0):
        self.count = start

    def add(self, by=1):
        self.count += by
        return self.count

    def where(self):
        return ray.get_runtime_context().get_node_id()


def test_tasks_and_objects(client):
    context = client()
    assert type(context).__name__ == "ClientContext" and context._num_clients == 1
    assert context.python_version.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert context.protocol_version and context.ray_version == ray.__version__
    assert ray.is_initialized()
    assert ray.get([add.remote(number, 1) for number in range(300)], timeout=60) == list(range(1, 301))
    # References as arguments, at the top and inside; a task of a task.
    three = add.remote(1, 2)
    assert ray.get(add.remote(three, three), timeout=60) == 6

    @ray.remote(num_returns=2)
    def outer(refs):
        return sum(ray.get(refs)), add.remote(20, 3)

    first, inner = outer.remote([three, ray.put(4)])
    assert ray.get(first, timeout=60) == 7 and ray.get(ray.get(inner, timeout=60), timeout=60) == 23
    # Large values in both directions.
    values = np.arange(4 * MIB, dtype=np.float64)
    large = ray.put(values)
    assert ray.get(total.remote(large), timeout=60) == float(np.sum(values))
    assert ray.get(total.remote(values[: MIB // 4]), timeout=60) == float(np.sum(values[: MIB // 4]))

    @ray.remote
    def make(count):
        return np.ones(count, dtype=np.float64)

    made = ray.get(make.remote(3 * MIB), timeout=60)
    assert made.shape == (3 * MIB,) and made.sum() == 3 * MIB

    @ray.remote
    def fail():
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose") as caught:
        ray.get(fail.remote(), timeout=60)
    assert isinstance(caught.value, exceptions.RayTaskError)
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(add.remote(never.remote(), 1), timeout=0.2)


@ray.remote(resources={"nobody has it": 1})
def never():
    return 1


def test_waiting(client):
    client()

    @ray.remote(num_cpus=0)
    def until(path):
        while not os.path.exists(path):
            time.sleep(0.01)
        return path

    with tempfile.TemporaryDirectory() as folder:
        gate = os.path.join(folder, "gate")
        slow, quick = until.remote(gate), add.remote(1, 1)
        ready, rest = ray.wait([slow, quick], timeout=60)
        assert ready == [quick] and rest == [slow]
        ready, rest = ray.wait([slow], timeout=0.05)
        assert not ready and rest == [slow]
        open(gate, "w").close()
        assert ray.get(slow, timeout=60) == gate


def test_actors_by_name_and_without(client):
    client()
    counter = Counter.remote(10)
    assert ray.get([counter.add.remote() for _ in range(500)], timeout=60)[-1] == 510
    named = Counter.options(name="named").remote()
    assert ray.get(named.add.remote(5), timeout=60) == 5
    assert ray.get(ray.get_actor("named").add.remote(5), timeout=60) == 10
    assert ray.util.list_named_actors() == ["named"]

    # A handle in a task, which calls from elsewhere.
    @ray.remote
    def use(handle):
        return ray.get(handle.add.remote(100))

    assert ray.get(use.remote(counter), timeout=60) == 610
    ray.kill(named)
    with pytest.raises(exceptions.RayActorError):
        ray.get(named.add.remote(), timeout=60)


def test_a_detached_actor_stays_when_its_client_goes(client):
    client()
    kept = Counter.options(name="kept", lifetime="detached").remote(1)
    lost = Counter.options(name="lost").remote(1)
    assert ray.get([kept.add.remote(), lost.add.remote()], timeout=60) == [2, 2]
    address = ray.get_runtime_context().gcs_address
    ray.shutdown()
    ray.init(f"ray://{address}", logging_level="error", namespace="tests")
    assert ray.get(ray.get_actor("kept").add.remote(), timeout=60) == 3
    wait_until(lambda: ray.util.list_named_actors() == ["kept"], "the other actor to be gone")
    ray.kill(ray.get_actor("kept"))


def test_generators(client):
    client()

    @ray.remote
    def count(to):
        yield from range(to)

    assert [ray.get(ref, timeout=60) for ref in count.remote(50)] == list(range(50))

    @ray.remote
    def broken():
        yield 1
        raise KeyError("after the first")

    items = broken.remote()
    assert ray.get(next(items), timeout=60) == 1
    with pytest.raises(KeyError):
        ray.get(next(items), timeout=60)

    @ray.remote(num_returns="dynamic")
    def dynamic():
        yield from (b"x" * MIB, b"y")

    first, second = ray.get(dynamic.remote(), timeout=60)
    assert ray.get(first, timeout=60) == b"x" * MIB and ray.get(second, timeout=60) == b"y"


def test_await(client):
    client()
    counter = Counter.remote()

    async def work():
        assert await add.remote(1, 2) == 3
        return await asyncio.gather(*[counter.add.remote() for _ in range(100)])

    assert asyncio.run(asyncio.wait_for(work(), 60)) == list(range(1, 101))
    assert add.remote(3, 4).future().result(60) == 7


def test_cancelling(client):
    client()

    @ray.remote(num_cpus=0)
    def sleep():
        time.sleep(3600)

    running = sleep.remote()
    wait_until(lambda: running._standing() and "RUNNING" in running._standing()[0], "the task to run")
    ray.cancel(running)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(running, timeout=60)
    waiting = never.remote()
    ray.cancel(waiting)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(waiting, timeout=60)
    forced = sleep.remote()
    ray.cancel(forced, force=True)
    with pytest.raises((exceptions.TaskCancelledError, exceptions.WorkerCrashedError)):
        ray.get(forced, timeout=60)


def test_a_client_is_no_place_to_work_and_no_node_to_others(client):
    client()
    mine = ray.get_runtime_context().get_node_id()
    nodes = [node["NodeID"] for node in ray.nodes()]
    assert len(nodes) == 1 and mine not in nodes
    assert ray.cluster_resources()["CPU"] == 2.0
    # Such tasks and actors ask for nothing, so that they would fit anywhere.
    assert set(ray.get([where.remote() for _ in range(50)], timeout=60)) == set(nodes)
    actors = [Counter.remote() for _ in range(5)]
    assert set(ray.get([actor.where.remote() for actor in actors], timeout=60)) == set(nodes)
    spread = where.options(scheduling_strategy="SPREAD")
    assert set(ray.get([spread.remote() for _ in range(20)], timeout=60)) == set(nodes)
    soft = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(mine, soft=True)
    assert ray.get(where.options(scheduling_strategy=soft).remote(), timeout=60) == nodes[0]
    group = ray.util.placement_group([{"CPU": 1}], strategy="STRICT_PACK")
    assert ray.get(group.ready(), timeout=60)
    inside = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
    assert ray.get(where.options(scheduling_strategy=inside).remote(), timeout=60) == nodes[0]
    ray.util.remove_placement_group(group)

    from ray_rs.util import state

    assert [row.node_id for row in state.list_nodes()] == nodes
    assert len(state.list_actors(filters=[("state", "=", "ALIVE")])) == 5
    assert any(row.name == "where" for row in state.list_tasks())


def test_prints_come_to_the_client(client, capfd):
    client()

    @ray.remote
    def speak():
        print("said far away")

    ray.get(speak.remote(), timeout=60)
    seen = []
    wait_until(lambda: seen.append(capfd.readouterr().out) or "said far away" in "".join(seen), "the line")


def test_another_node_behind_the_head(shell, elsewhere):  # noqa: F811 - the fixture
    address, token = start_head("--num-cpus=1")
    command("start", f"--address={address}", "--num-cpus=1", '--resources={"there": 1}')
    elsewhere(token)
    ray.init(f"ray://{address}", logging_level="error")
    there = {"num_cpus": 0, "resources": {"there": 0.01}}
    node = ray.get(where.options(**there).remote(), timeout=60)
    other = ray.get(where.remote(), timeout=60)
    assert {node, other} <= {each["NodeID"] for each in ray.nodes()} and len(ray.nodes()) == 2

    # What the client has goes there, and on to the other node; what is made there comes here.
    values = np.arange(2 * MIB, dtype=np.float64)
    large = ray.put(values)
    sums = [total.options(**there).remote(large), total.options(num_cpus=0).remote(large)]
    assert ray.get(sums, timeout=60) == [float(np.sum(values))] * 2

    @ray.remote(**there)
    def make():
        return np.full(2 * MIB, 3.0)

    made = make.remote()
    assert ray.get(total.options(num_cpus=0).remote(made), timeout=60) == 6.0 * MIB
    assert ray.get(made, timeout=60)[-1] == 3.0
    counter = Counter.options(**there).remote()
    assert ray.get([counter.add.remote() for _ in range(200)], timeout=60)[-1] == 200


HOLDER = """
    import sys, time

    ray.init(sys.argv[1], logging_level="error", namespace="tests")

    @ray.remote(num_cpus=1)
    class Holder:
        def work(self):
            time.sleep(3600)

        def ready(self):
            pass

    held = Holder.options(name="held").remote()
    ray.get(held.ready.remote(), timeout=60)
    kept = ray.put(bytes(10_000_000))
    working = held.work.remote()
    print("ready", flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_client_leaves_is_nothing(client, how):
    client()
    address = ray.get_runtime_context().gcs_address
    before = set(traces.daemons("raylet"))
    other = start_driver(HOLDER, f"ray://{address}")
    assert other.stdout.readline() == "ready\n"
    assert ray.util.list_named_actors() == ["held"]
    wait_until(lambda: ray.available_resources().get("CPU") == 1.0, "the actor's CPU to be taken")
    assert len(set(traces.daemons("raylet")) - before) == 1
    from ray_rs import _core

    assert _core.client_count() == 2
    other.send_signal(how)
    other.wait(timeout=30)
    wait_until(lambda: _core.client_count() == 1, "the other client to be gone")
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0, "its actor's CPU to be free")
    wait_until(lambda: set(traces.daemons("raylet")) == before, "its raylet to be gone")
    assert ray.util.list_named_actors() == []
    assert ray.get(add.remote(1, 2), timeout=60) == 3


@pytest.mark.parametrize("how", ["the control store is killed", "the head is stopped"])
def test_no_wait_is_for_ever_when_the_way_is_lost(shell, elsewhere, monkeypatch, how):  # noqa: F811 - the fixture
    sessions = os.environ.get("RAY_RS_TMPDIR")
    address, token = start_head("--num-cpus=2")
    elsewhere(token)
    ray.init(f"ray://{address}", logging_level="error")
    counter = Counter.remote()
    assert ray.get(counter.add.remote(), timeout=60) == 1
    waiting = never.remote()
    if how == "the head is stopped":
        command("stop", RAY_RS_TMPDIR=sessions)
    else:
        (gcs,) = traces.daemons("gcs")
        os.kill(gcs, signal.SIGKILL)
    for ref in (waiting, counter.add.remote()):
        with pytest.raises(exceptions.LocalRayletDiedError):
            ray.get(ref, timeout=60)
    ray.shutdown()
    if how == "the control store is killed":
        # It has been started again.
        wait_until(lambda: len(traces.daemons("gcs")) == 1, "the next control store")
        wait_until(lambda: connects(address), "to be let in again")
        assert ray.get(add.remote(1, 2), timeout=60) == 3


def connects(address):
    try:
        ray.init(f"ray://{address}", logging_level="error")
    except ConnectionError:
        return False
    return True


def test_who_is_not_let_in(client, tmp_path, monkeypatch):
    client()
    address = ray.get_runtime_context().gcs_address
    ray.shutdown()
    right = os.environ["RAY_RS_TOKEN"]
    # Of a cluster that encrypts, a token begins with "tls-".
    monkeypatch.setenv("RAY_RS_TOKEN", "tls-" * right.startswith("tls-") + "ab" * 32)
    with pytest.raises(ConnectionError, match="does not take the token"):
        ray.init(f"ray://{address}", logging_level="error")
    monkeypatch.delenv("RAY_RS_TOKEN")
    with pytest.raises(ConnectionError, match="RAY_RS_TOKEN"):
        ray.init(f"ray://{address}", logging_level="error")
    monkeypatch.setenv("RAY_RS_TOKEN", right)
    with pytest.raises(ConnectionError, match="ray client connection timeout"):
        ray.init("ray://127.0.0.1:1", logging_level="error")
    for nonsense in ("ray://", "ray://127.0.0.1", "ray://host:port"):
        with pytest.raises(ValueError, match="Invalid address format"):
            ray.init(nonsense, logging_level="error")
    assert not ray.is_initialized()
    # Nobody is worse off.
    ray.init(f"ray://{address}", logging_level="error")
    assert ray.get(add.remote(1, 2), timeout=60) == 3


def test_versions_must_match(client, monkeypatch):
    client()
    address = ray.get_runtime_context().gcs_address
    ray.shutdown()
    from ray_rs import _processes

    launch = _processes._core.launch_head
    monkeypatch.setattr(
        _processes._core,
        "launch_head",
        lambda config: launch(re.sub(r'"python_version": "[^"]*"', '"python_version": "2.7"', config)),
    )
    with pytest.raises(ConnectionError, match=r"on Python 3\.\d+, and .* on Python 2\.7") as caught:
        ray.init(f"ray://{address}", logging_level="error")
    assert address in str(caught.value)
    assert not ray.is_initialized()


def test_the_session_of_one_program_takes_no_clients(no_cluster):
    context = ray.init(num_cpus=1, logging_level="error")
    address = context.address_info["gcs_address"]
    source = """
        import sys

        try:
            ray.init(f"ray://{sys.argv[1]}", logging_level="error")
        except ConnectionError as error:
            print(error)
    """
    assert "ray_rs start --head" in run_driver(source, address).stdout


def test_arguments_of_init(client, monkeypatch):
    client()
    address = ray.get_runtime_context().gcs_address
    with pytest.raises(NotImplementedError, match="allow_multiple"):
        ray.init(f"ray://{address}", allow_multiple=True)
    assert type(ray.init(f"ray://{address}", ignore_reinit_error=True)).__name__ == "ClientContext"
    with pytest.raises(RuntimeError, match="twice"):
        ray.init(f"ray://{address}")
    ray.shutdown()
    with pytest.raises(RuntimeError, match="Got unexpected kwargs: num_cpus"):
        ray.init(f"ray://{address}", num_cpus=1)
    with pytest.raises(ValueError, match="does not exist"):
        ray.init(f"ray://{address}", runtime_env={"working_dir": "/no/such/folder"})
    assert not ray.is_initialized()
    monkeypatch.setenv("RAY_ADDRESS", f"ray://{address}")
    monkeypatch.setenv("RAY_NAMESPACE", "from the environment")
    monkeypatch.setenv("RAY_RUNTIME_ENV", '{"env_vars": {"TOLD": "by a variable"}}')
    with ray.init(logging_level="error"):
        assert ray.get_runtime_context().namespace == "from the environment"

        @ray.remote
        def told():
            return os.environ.get("TOLD"), os.environ.get("RAY_NAMESPACE")

        # Workers have the variables of the cluster, and those of the runtime environment.
        assert ray.get(told.remote(), timeout=60) == ("by a variable", None)
    assert not ray.is_initialized()


def test_files_of_the_program_come_along(client, tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "rrt_along.py").write_text("NAME = 'along'\n")
    (folder / "rrt_left.log").write_text("")
    (tmp_path / "rrt_module.py").write_text("NAME = 'module'\n")
    client(runtime_env={"working_dir": str(folder), "excludes": ["*.log"]})
    (folder / "rrt_along.py").unlink()

    @ray.remote
    def look():
        import rrt_along

        return rrt_along.NAME, os.listdir(".")

    name, names = ray.get(look.remote(), timeout=60)
    assert (name, [each for each in names if each != "__pycache__"]) == ("along", ["rrt_along.py"])

    @ray.remote(runtime_env={"py_modules": [str(tmp_path / "rrt_module.py")]})
    def module():
        import rrt_along
        import rrt_module

        return rrt_along.NAME, rrt_module.NAME

    assert ray.get(module.remote(), timeout=60) == ("along", "module")


def test_rays_other_names(client):
    client()
    address = ray.get_runtime_context().gcs_address
    stub = ray.util.client.ray
    assert stub.is_connected() and ray.util.client.num_connected_contexts() == 1
    assert stub.get(stub.put(5)) == 5
    with pytest.raises(RuntimeError, match="already connected"):
        ray.util.connect(address)
    ray.util.disconnect()
    assert not stub.is_connected() and not ray.is_initialized()
    told = ray.util.connect(address, ray_init_kwargs={"logging_level": "error"})
    assert told["num_clients"] >= 1 and told["ray_version"] == ray.__version__
    assert ray.get(add.remote(1, 2), timeout=60) == 3
    ray.util.disconnect()
    with ray.client(address).namespace("built").connect() as context:
        assert isinstance(context, ray.client_builder.ClientContext)
        assert ray.get_runtime_context().namespace == "built"


def test_with_tls_and_at_a_port_of_its_own(shell, elsewhere):  # noqa: F811 - the fixture
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, token = start_head("--tls", f"--ray-client-server-port={port}", "--num-cpus=2")
    elsewhere(token)
    ray.init(f"ray://127.0.0.1:{port}", logging_level="error")
    assert ray.get([add.remote(number, 1) for number in range(50)], timeout=60) == list(range(1, 51))
    values = np.arange(MIB, dtype=np.float64)
    assert ray.get(total.remote(ray.put(values)), timeout=60) == float(np.sum(values))
    counter = Counter.remote()
    assert ray.get([counter.add.remote() for _ in range(50)], timeout=60)[-1] == 50


FROM_OUTSIDE = """
    import sys

    import numpy as np

    ray.init(f"ray://{sys.argv[1]}", logging_level="error")

    @ray.remote(num_cpus=0)
    def total(values):
        return float(np.sum(values)), ray.get_runtime_context().get_node_id()

    @ray.remote(num_cpus=0)
    class Counter:
        def add(self, refs):
            return len(ray.get(refs[0]))

    values = np.ones(1_000_000)
    large = ray.put(values)
    near, far = (total.options(resources={host: 0.1}) for host in ("h1", "h2"))
    sums = ray.get([near.remote(large), far.remote(large)], timeout=60)
    counter = Counter.options(resources={"h2": 0.1}).remote()
    # The actor asks the owner, which is here.
    length = ray.get(counter.add.remote([large]), timeout=60)
    print(sums[0][0], sums[1][0], sums[0][1] != sums[1][1], length, flush=True)
    sys.stdin.readline()
"""


def test_a_client_needs_one_port_and_listens_on_none(network, tmp_path):
    """On a link of its own, whose sockets are counted."""
    head, second, outside = (network.add_host() for _ in range(3))
    network.start(head, "--num-cpus=1", '--resources={"h1": 1}', "--object-store-memory=100000000")
    network.start(second, "--num-cpus=1", '--resources={"h2": 1}', "--object-store-memory=100000000")
    path = tmp_path / "program.py"
    path.write_text(script(FROM_OUTSIDE))
    with open(network.token) as file:
        environment = outside.environment(RAY_RS_TOKEN=file.read())
    program = subprocess.Popen(
        outside.words(sys.executable, "-u", str(path), network.gcs_address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert program.stdout.readline().split() == ["1000000.0", "1000000.0", "True", "1000000"]
        table = subprocess.run(
            outside.words("cat", "/proc/net/tcp"), capture_output=True, text=True, timeout=60, check=True
        )
        rows = [line.split() for line in table.stdout.splitlines()[1:]]
        listening, established = "0A", "01"
        assert not [row for row in rows if row[3] == listening]
        port = int(network.gcs_address.rpartition(":")[2])
        ports = {int(row[2].rpartition(":")[2], 16) for row in rows if row[3] == established}
        assert ports == {port}
        out, err = program.communicate("go on\n", timeout=60)
        assert program.returncode == 0, out + err
    finally:
        program.kill()
        program.wait()
