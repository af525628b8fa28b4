"""Nodes on links of their own: as on several machines, whose cables can be pulled."""

import re
import subprocess
import sys
import time

import pytest
import traces
from hosts import run
from under_test import PATIENCE, script, wait_until

# Longer than a node may be silent before it counts as dead, and than what waits for it may take to hear of that.
DEATH_PATIENCE = 45.0


def start(network, count=3, store=100):
    """A cluster of so many hosts, each with one CPU and a resource of its name."""
    for number in range(1, count + 1):
        host = network.add_host()
        network.start(host, "--num-cpus=1", f'--resources={{"h{number}": 1}}', f"--object-store-memory={store << 20}")
    return network.hosts


class Program:
    """A driver on one of the hosts, which the test talks to by lines."""

    def __init__(self, host, body, tmp_path):
        path = tmp_path / "program.py"
        path.write_text(script(body))
        self.errors = tmp_path / "stderr"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                host.words(sys.executable, "-u", str(path)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=host.environment(),
            )

    def expect(self, word):
        """The rest of the next line that begins so."""
        for line in self.process.stdout:
            if line.startswith(word):
                return line[len(word) :].strip()
        pytest.fail(f"the program ended before it said {word!r}\n{self.errors.read_text()}")

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def program(tmp_path):
    programs = []

    def begin(host, body):
        programs.append(Program(host, body, tmp_path))
        return programs[-1]

    yield begin
    for each in programs:
        each.end()


PARTS = """
    import sys, time
    import numpy as np

    ray.init(address="auto", logging_level="error")

    def on(host):
        return {"num_cpus": 0, "resources": {host: 0.001}}

    @ray.remote
    def where():
        return ray.util.get_node_ip_address()

    @ray.remote
    def make(mib):
        return np.full(mib << 20, 7, dtype=np.uint8)

    @ray.remote
    def total(value):
        return int(value.sum())

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self):
            self.count += 1
            return self.count, ray.util.get_node_ip_address()
"""


def test_a_program_over_three_hosts(network, program):
    hosts = start(network)
    talk = program(
        hosts[1],
        PARTS
        + """
    print("AT", *[ray.get(where.options(**on(f"h{i}")).remote(), timeout=60) for i in (1, 2, 3)])
    value = make.options(**on("h3")).remote(8)
    print("SUMS", *[ray.get(total.options(**on(f"h{i}")).remote(value), timeout=60) for i in (1, 2, 3)])
    print("HERE", int(ray.get(value, timeout=60).sum()))
    counter = Counter.options(**on("h1")).remote()
    print("COUNTED", *[ray.get(counter.add.remote(), timeout=60)[0] for _ in range(3)])
    group = ray.util.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    print("SPREAD", group.wait(60))
    """,
    )
    assert talk.expect("AT").split() == [host.address for host in hosts]
    whole = str(7 * (8 << 20))
    assert talk.expect("SUMS").split() == [whole] * 3
    assert talk.expect("HERE") == whole
    assert talk.expect("COUNTED") == "1 2 3"
    assert talk.expect("SPREAD") == "True"


def test_a_host_that_is_cut_off_is_dead_and_stays_dead(network, program):
    """Its tasks run elsewhere or fail by name, its actor moves; when the cable is back, the old node ends itself."""
    hosts = start(network)
    raylet = hosts[2].raylet_pid()
    talk = program(
        hosts[0],
        PARTS
        + """
    @ray.remote(num_cpus=0, max_retries=3)
    def slow(path):
        # Only where it is started first does it wait for ever.
        try:
            open(path, "x").close()
        except FileExistsError:
            return ray.util.get_node_ip_address()
        time.sleep(10_000)

    from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At

    third = next(node["NodeID"] for node in ray.nodes() if node["Resources"].get("h3"))
    soft = At(third, soft=True)
    path = sys.argv[0] + ".begun"
    retried = slow.options(scheduling_strategy=soft).remote(path)
    once = slow.options(max_retries=0, **on("h3")).remote(path + "2")
    value = make.options(max_retries=0, **on("h3")).remote(4)
    moves = Counter.options(max_restarts=1, max_task_retries=-1, scheduling_strategy=soft).remote()
    stays = Counter.options(**on("h3")).remote()
    print("AT", ray.get(moves.add.remote(), timeout=60)[1], ray.get(stays.add.remote(), timeout=60)[1])
    ray.wait([value], timeout=60, fetch_local=False)
    import os
    while not (os.path.exists(path) and os.path.exists(path + "2")):
        time.sleep(0.01)
    print("READY")
    sys.stdin.readline()
    print("RETRIED", ray.get(retried, timeout=60))
    for what in (once, stays.add.remote(), value):
        try:
            ray.get(what, timeout=60)
            print("ERROR none")
        except Exception as error:
            print("ERROR", type(error).__mro__[0].__name__)
    print("MOVED", *ray.get(moves.add.remote(), timeout=60))
    print("ALIVE", sum(node["Alive"] for node in ray.nodes()))
    sys.stdin.readline()
    print("THEN", *ray.get(moves.add.remote(), timeout=60))
    print("ALIVE", sum(node["Alive"] for node in ray.nodes()))
    """,
    )
    assert talk.expect("AT").split() == [hosts[2].address] * 2
    talk.expect("READY")
    hosts[2].cut()
    talk.say("go on")
    assert talk.expect("RETRIED") in (hosts[0].address, hosts[1].address)
    errors = [talk.expect("ERROR") for _ in range(3)]
    assert re.search("WorkerCrashed|NodeDied", errors[0]), errors
    assert re.search("ActorDied|ActorUnavailable", errors[1]), errors
    assert errors[2] == "ObjectReconstructionFailedError", errors
    count, at = talk.expect("MOVED").split()
    assert (count, at) != ("2", hosts[2].address) and count == "1"
    assert talk.expect("ALIVE") == "2"
    hosts[2].mend()
    wait_until(lambda: raylet not in traces.processes(), "the node that was declared dead to end", DEATH_PATIENCE)
    talk.say("go on")
    assert talk.expect("THEN").split() == ["2", at], "there is one truth"
    assert talk.expect("ALIVE") == "2"
    # A new node there is welcome.
    network.start(hosts[2], "--num-cpus=1")
    assert re.search(r"/3\.0 CPU", hosts[0].ray_rs("status"))


TICKER = """
    @ray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)
    class Ticker:
        # Shows that it runs, also when nobody calls it. All hosts have one clock and one disk.
        def __init__(self, place):
            import threading
            self.count = 0
            self.path = f"{place}/{ray.util.get_node_ip_address()}"
            threading.Thread(target=self.tick, daemon=True).start()

        def tick(self):
            with open(self.path, "a") as file:
                while True:
                    print(time.monotonic(), file=file, flush=True)
                    time.sleep(0.01)

        def add(self):
            self.count += 1
            return self.count, ray.util.get_node_ip_address()
"""


def test_an_actor_that_is_cut_off_has_halted_before_it_runs_elsewhere(network, program, tmp_path):
    hosts = start(network)
    talk = program(
        hosts[0],
        PARTS
        + TICKER
        + f"""
    from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At

    third = next(node["NodeID"] for node in ray.nodes() if node["Resources"].get("h3"))
    ticker = Ticker.options(scheduling_strategy=At(third, soft=True)).remote({str(tmp_path)!r})
    print("AT", *ray.get(ticker.add.remote(), timeout=60))
    sys.stdin.readline()
    print("MOVED", *ray.get(ticker.add.remote(), timeout=60))
    sys.stdin.readline()
    """,
    )
    raylet = hosts[2].raylet_pid()
    assert talk.expect("AT").split() == ["1", hosts[2].address]
    hosts[2].cut()
    talk.say("go on")
    count, address = talk.expect("MOVED").split()
    assert count == "1" and address != hosts[2].address
    hosts[2].mend()
    wait_until(lambda: raylet not in traces.processes(), "the node that was declared dead to end", DEATH_PATIENCE)
    talk.say("go on")

    def ticks(address):
        # The last line may not be whole.
        return [float(line) for line in (tmp_path / address).read_text().splitlines()[:-1]]

    assert ticks(hosts[2].address)[-1] < ticks(address)[0], "never two at a time, not even for a moment"


def test_an_actor_that_halted_for_a_while_goes_on(network, program, tmp_path, monkeypatch):
    """Longer than workers run without word from the control store, and shorter than a node may be silent."""
    monkeypatch.setenv("RAY_RS_NODE_TIMEOUT_S", "24")
    hosts = start(network, 2)
    talk = program(
        hosts[0],
        PARTS
        + TICKER
        + f"""
    ticker = Ticker.options(**on("h2")).remote({str(tmp_path)!r})
    print("AT", *ray.get(ticker.add.remote(), timeout=60))
    sys.stdin.readline()
    print("STILL", *ray.get(ticker.add.remote(), timeout=60))
    sys.stdin.readline()
    """,
    )
    assert talk.expect("AT").split() == ["1", hosts[1].address]
    path = tmp_path / hosts[1].address

    def grows():
        before = path.stat().st_size
        time.sleep(0.3)
        return path.stat().st_size > before

    assert grows()
    hosts[1].cut()
    wait_until(lambda: not grows(), "the actor to halt", DEATH_PATIENCE)
    hosts[1].mend()
    talk.say("go on")
    assert talk.expect("STILL").split() == ["2", hosts[1].address]
    assert grows()


def test_a_short_cut_is_survived(network, program):
    """Shorter than a node may be silent: nothing is lost."""
    hosts = start(network, 2)
    talk = program(
        hosts[0],
        PARTS
        + """
    counter = Counter.options(**on("h2")).remote()
    print("READY", *ray.get(counter.add.remote(), timeout=60))
    sys.stdin.readline()
    print("STILL", *ray.get(counter.add.remote(), timeout=60))
    print("SUM", ray.get(total.options(**on("h2")).remote(ray.put(np.ones(2 << 20, dtype=np.uint8))), timeout=60))
    """,
    )
    assert talk.expect("READY") == f"1 {hosts[1].address}"
    hosts[1].cut()
    time.sleep(1.0)
    hosts[1].mend()
    talk.say("go on")
    assert talk.expect("STILL") == f"2 {hosts[1].address}"
    assert talk.expect("SUM") == str(2 << 20)


def test_a_program_whose_own_host_is_cut_off(network, program):
    """It hears that its cluster is gone, and does not wait for ever."""
    hosts = start(network, 2)
    talk = program(
        hosts[1],
        PARTS
        + """
    ray.get(where.options(**on("h1")).remote(), timeout=60)
    print("READY")
    sys.stdin.readline()
    try:
        print("ERROR none", ray.get(where.options(**on("h1")).remote(), timeout=150))
    except Exception as error:
        print("ERROR", type(error).__name__)
    """,
    )
    talk.expect("READY")
    hosts[1].cut()
    talk.say("go on")
    time.sleep(12)  # it is declared dead meanwhile
    hosts[1].mend()
    assert talk.expect("ERROR") not in ("none", "GetTimeoutError")


def test_a_slow_link_and_who_sends_how_much(network, program):
    """Four readers of one value over links of 400 Mbit/s: its host sends it twice at most."""
    hosts = start(network, 5, store=120)
    size = 32
    for host in hosts:
        host.slow_down(400)
    talk = program(
        hosts[0],
        PARTS
        + f"""
    names = ["h2", "h3", "h4", "h5"]
    ray.get([total.options(**on(name)).remote(ray.put(np.ones(1 << 10))) for name in names], timeout=60)
    value = ray.put(np.full({size} << 20, 1, dtype=np.uint8))
    print("READY")
    sys.stdin.readline()
    began = time.monotonic()
    sums = ray.get([total.options(**on(name)).remote(value) for name in names], timeout=120)
    print("TOOK", time.monotonic() - began)
    print("SUMS", *sums)
    """,
    )
    talk.expect("READY")
    before = hosts[0].sent_bytes()
    talk.say("go on")
    took = float(talk.expect("TOOK"))
    assert talk.expect("SUMS").split() == [str(size << 20)] * 4
    sent = (hosts[0].sent_bytes() - before) / (size << 20)
    # Headers of packets and what else is said come on top of twice its size.
    assert 1.0 < sent < 2.2, sent
    assert took > (size << 20) * 8 / 400e6 * 0.9, "the link is as slow as it was made"


def test_an_address_that_nobody_has(network):
    """Said in bounded time, with the cause: whether the network says so, or nobody says anything."""
    hosts = start(network, 1)
    other = network.add_host()
    nobody = f"{network.prefix}.200:6379"
    began = time.monotonic()
    error = other.ray_rs("start", f"--address={nobody}", f"--token-file={network.token}", status=1)
    assert f"Cannot join the cluster at {nobody}" in error
    hosts[0].cut()
    error = other.ray_rs("start", f"--address={network.gcs_address}", f"--token-file={network.token}", status=1)
    assert f"Cannot join the cluster at {network.gcs_address}" in error
    assert re.search("no answer|No route|unreachable|timed out|5 s", error), error
    assert time.monotonic() - began < 60, "the limit is promised"


def test_only_the_address_that_was_named_is_open(network):
    """A node listens where it was told to, and takes nobody without the token."""
    hosts = start(network, 1)
    raylet = hosts[0].raylet_pid()
    listening = run("ip", "netns", "exec", hosts[0].name, "ss", "-ltnH").stdout.split("\n")
    addresses = {line.split()[3].rpartition(":")[0] for line in listening if line.strip()}
    # And the web service on the loopback, as it says.
    assert addresses == {hosts[0].address, "127.0.0.1"}
    other = network.add_host()
    error = other.ray_rs("start", f"--address={network.gcs_address}", status=1, RAY_RS_TOKEN="ab" * 32)
    assert "token is not that of this cluster" in error
    assert raylet in traces.processes()


def test_a_lossy_link():
    """Latency and loss, where the kernel can make them."""
    import hosts

    if missing := hosts.what_is_missing():
        pytest.skip(missing)
    network = hosts.Network()
    try:
        first, second = network.add_host(), network.add_host()
        tried = run(
            "tc", "qdisc", "add", "dev", second.link, "root", "netem", "delay", "5ms", "loss", "2%", check=False
        )
        if tried.returncode != 0:
            pytest.skip("needs a kernel with netem, to lose packets")
        network.start(first, "--num-cpus=1")
        network.start(second, "--num-cpus=1", '--resources={"there": 1}')
        body = """
            import numpy as np
            ray.init(address="auto", logging_level="error")
            f = ray.remote(resources={"there": 0.001})(lambda x: int(x.sum()))
            print(ray.get([f.remote(np.ones(1 << 20, dtype=np.uint8)) for _ in range(10)], timeout=120))
        """
        done = subprocess.run(
            first.words(sys.executable, "-c", script(body)),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE + 120,
            env=first.environment(),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str([1 << 20] * 10)
    finally:
        network.end()
