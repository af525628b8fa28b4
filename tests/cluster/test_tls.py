"""Clusters whose connections between machines are encrypted: all goes on as without, and nothing else gets in."""

import os
import socket
import ssl

import pytest
from test_start_and_stop import shell, start_head, token_file  # noqa: F401 - a fixture
from under_test import command, ray, run_driver

MIB = 2**20


@pytest.fixture
def encrypted(ray_cluster, monkeypatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    return ray_cluster([{"num_cpus": 1}, {"num_cpus": 2, "resources": {"there": 2}}])


def ports(cluster):
    from ray_rs import _processes

    head = cluster.nodes[0].session_dir
    nodes = _processes.list_nodes(f"{head}/sockets/gcs", f"{head}/token")
    return [cluster.address, *(node["raylet_address"] for node in nodes)]


@ray.remote(resources={"there": 1})
def checksum(value):
    return ray.get_runtime_context().get_node_id(), sum(value[:: 64 * 1024]), bytes(3 * MIB)


@ray.remote(resources={"there": 1})
class Counter:
    def __init__(self):
        self.count = 0

    def add(self, by):
        self.count += by
        return self.count


def test_tasks_actors_and_large_values_between_nodes(encrypted):
    head = ray.get_runtime_context().get_node_id()
    value = os.urandom(MIB) * 70
    large = ray.put(value)
    there, total, back = ray.get(checksum.remote(large), timeout=60)
    assert there != head and total == sum(value[:: 64 * 1024]) and back == bytes(3 * MIB)
    counter = Counter.remote()
    assert ray.get([counter.add.remote(1) for _ in range(2000)], timeout=60)[-1] == 2000
    # A caller on the other node, of an actor on the other node, with a reference from here.
    assert ray.get(use.remote(counter, [large]), timeout=60) == (2001, len(value))
    ray.kill(counter)


@ray.remote(resources={"there": 1})
def use(counter, refs):
    return ray.get(counter.add.remote(1)), len(ray.get(refs[0]))


def test_every_port_between_machines_speaks_tls_and_nothing_else(encrypted):
    for address in ports(encrypted):
        host, _, port = address.rpartition(":")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((host, int(port)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="any") as stream,
        ):
            assert stream.version() == "TLSv1.3"
            # The challenge comes inside.
            assert len(stream.recv(32)) == 32
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection((host, int(port)), timeout=20) as plain, pytest.raises(ssl.SSLError):
            old.wrap_socket(plain, server_hostname="any")
        # Who speaks without gets no challenge, and an end.
        with socket.create_connection((host, int(port)), timeout=20) as plain:
            plain.sendall(os.urandom(64))
            said = b"".join(iter(lambda: plain.recv(4096), b""))
            assert len(said) < 32
    assert ray.get(checksum.remote(b"x"), timeout=60)[1] == ord("x")


def test_the_token_says_it_to_all_who_join(shell, tmp_path):  # noqa: F811
    address, token = start_head("--tls")
    with open(token) as file:
        text = file.read().strip()
    assert text.startswith("tls-")
    command("start", f"--address={address}", f"--token-file={token}", "--num-cpus=1", "--resources=there=1")
    source = """
        import sys

        ray.init(address=sys.argv[1], logging_level="error")

        @ray.remote(resources={"there": 1})
        def f(x):
            return len(x)

        print(ray.get(f.remote(ray.put(b"x" * 5_000_000)), timeout=60))
    """
    assert run_driver(source, address).stdout.split() == ["5000000"]
    assert "/2.0 CPU" in command("status")
    # Nobody is talked out of it: with the secret alone nothing goes over the wire.
    bare = token_file(tmp_path / "bare", text.removeprefix("tls-"))
    error = command("start", f"--address={address}", f"--token-file={bare}", status=1)
    assert "Cannot join" in error
    assert "of a head" in command("start", f"--address={address}", f"--token-file={token}", "--tls", status=1)
    assert command("stop") == "Stopped 2 nodes.\n"


def test_a_token_for_tls_is_not_shown_to_a_cluster_without(shell, tmp_path):  # noqa: F811
    address, token = start_head()
    with open(token) as file:
        wrong = token_file(tmp_path / "wrong", "tls-" + file.read().strip())
    error = command("start", f"--address={address}", f"--token-file={wrong}", status=1)
    assert "TLS" in error
    assert command("stop") == "Stopped 1 node.\n"
