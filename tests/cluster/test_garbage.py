"""Nonsense at every door of a cluster, with the token and without, while a program runs: nothing goes down."""

import hashlib
import hmac
import os
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
import traces
from under_test import ray, wait_until

ID_BYTES = 28
WIRE_VERSION = 2
RAYLET, WORKER, DATA = 1, 2, 3
WELCOME, OTHER_VERSION = 1, 3


# A worker that such things could kill would be missed.
@ray.remote(max_retries=0)
def double(x):
    return 2 * x


def connect(address):
    if isinstance(address, str) and address.startswith("/"):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(20)
        try:
            stream.connect(address)
        except OSError:
            stream.close()
            raise
        return stream
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def is_open(path):
    try:
        connect(path).close()
    except ConnectionRefusedError:
        return False  # a node that has joined has no control store
    return True


def receive(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise ConnectionError(f"closed after {len(data)} of {count} bytes")
        data += more
    return data


def shake_hands(address, token):
    """A connection that has shown that it may be there."""
    stream = connect(address)
    theirs, ours = receive(stream, 32), os.urandom(32)
    secret = bytes.fromhex(Path(token).read_text().strip())
    mac = hmac.new(secret, b"ray_rs client" + theirs + ours, hashlib.sha256).digest()
    stream.sendall(ours + mac)
    assert receive(stream, 32) == hmac.new(secret, b"ray_rs server" + theirs + ours, hashlib.sha256).digest()
    return stream


def greeting(purpose, version=WIRE_VERSION, to=b"\xff" * ID_BYTES, node=b"\x07" * ID_BYTES):
    return struct.pack("<B3xI", purpose, version) + to + node + b"\x08" * ID_BYTES + struct.pack("<I", 1)


class Doors:
    """Of a cluster of two nodes with a program that runs on both."""

    def __init__(self, cluster):
        self.head = cluster.nodes[0].session_dir
        self.token = f"{self.head}/token"
        self.gcs = cluster.address
        from ray_rs import _processes

        self.nodes = [node["raylet_address"] for node in _processes.list_nodes(f"{self.head}/sockets/gcs", self.token)]
        self.ports = [self.gcs, *self.nodes]
        paths = [str(path) for node in cluster.nodes for path in Path(node.session_dir, "sockets").iterdir()]
        self.sockets = [path for path in paths if is_open(path)]
        assert len(self.sockets) >= 3, paths
        self.daemons = {*traces.daemons("gcs"), *traces.daemons("raylet")}
        self.stop = threading.Event()
        self.rounds = 0
        self.thread = threading.Thread(target=self.use)
        self.thread.start()

    def use(self):
        spread = double.options(scheduling_strategy="SPREAD")
        while not self.stop.is_set():
            assert ray.get([spread.remote(i) for i in range(20)], timeout=60) == [2 * i for i in range(20)]
            self.rounds += 1

    def check(self):
        """The program goes on, and every daemon is the one that it was."""
        before = self.rounds
        wait_until(lambda: self.rounds > before + 2, "the program to go on")
        assert self.daemons == {*traces.daemons("gcs"), *traces.daemons("raylet")}

    def end(self):
        self.stop.set()
        self.thread.join()


@pytest.fixture
def doors(ray_cluster):
    made = Doors(ray_cluster(nodes=2, num_cpus=1, resources={"x": 1}))
    yield made
    made.end()


def throw(address, pieces, reads=True):
    """Sends these, and reads until the other side closes or is silent."""
    try:
        stream = connect(address)
    except FileNotFoundError:
        assert "raylet" not in address and "gcs" not in address
        return  # an idle worker's, which has left
    with stream:
        try:
            for piece in pieces:
                stream.sendall(piece)
            stream.shutdown(socket.SHUT_WR)
            if reads:
                while stream.recv(1 << 16):
                    pass
        except OSError:
            return  # it was refused sooner than all was sent


def test_garbage_from_strangers(doors):
    dice = random.Random(1)
    for round_ in range(40):
        for address in [*doors.ports, *doors.sockets]:
            size = dice.choice([0, 1, 31, 32, 63, 64, 65, 96, 1000, 100_000])
            throw(address, [dice.randbytes(size)], reads=round_ % 2 == 0)
        # What looks like the beginning of something.
        for address in doors.sockets:
            throw(address, [struct.pack("<I", dice.choice([0, 1, 5, 1 << 20, 0xFFFF_FFFF])), dice.randbytes(64)])
        for address in doors.ports:
            throw(address, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", dice.randbytes(100)])
            throw(address, [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
    doors.check()


def test_strangers_that_say_nothing_keep_nobody_out(doors):
    """More than there is room for in the middle of a handshake; each is dropped after some seconds."""
    silent = [connect(address) for address in doors.ports for _ in range(80)]
    try:
        doors.check()
        began = time.monotonic()
        for address in doors.ports:
            shake_hands(address, doors.token).close()
        assert time.monotonic() - began < 60, "the limit is promised"
        doors.check()
    finally:
        for stream in silent:
            stream.close()


def test_garbage_from_those_who_know_the_token(doors):
    dice = random.Random(2)
    for _ in range(30):
        for address in doors.nodes:
            # A greeting that is none; then frames that are none; then questions for values that are not there.
            with shake_hands(address, doors.token) as stream:
                stream.sendall(dice.randbytes(96))
            for purpose in (RAYLET, WORKER, DATA, 0, 9, 255):
                with shake_hands(address, doors.token) as stream:
                    stream.sendall(greeting(purpose))
                    try:
                        stream.sendall(struct.pack("<I", dice.choice([0, 3, 40, 0xFFFF_FFFF])) + dice.randbytes(200))
                        stream.shutdown(socket.SHUT_WR)
                        while stream.recv(1 << 16):
                            pass
                    except OSError:
                        continue
        with shake_hands(doors.gcs, doors.token) as stream:
            stream.sendall(dice.choice([b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]) + dice.randbytes(500))
    doors.check()


# Of ToRaylet: those that a registered client may end the session or a worker with are none of this test's affair.
SHUTDOWN, UNNEEDED, RETIRES = 15, 19, 21


def varint(number):
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def some_message(dice, ids, depth=0):
    """Well formed, of fields as they come: numbers from both ends, ids that mean something and ids that do not."""
    data = b""
    for _ in range(dice.randrange(7)):
        field = dice.randrange(1, 16)
        if dice.random() < 0.4:
            data += varint(field << 3) + varint(dice.choice([0, 1, 2, 3, 7, 1 << 31, 1 << 62, 2**64 - 1]))
            continue
        if depth < 3 and dice.random() < 0.4:
            inner = some_message(dice, ids, depth + 1)
        else:
            inner = dice.choice(
                [dice.choice(ids), dice.randbytes(dice.choice([0, 1, 4, 16, 18, 24, 28])), b"CPU", b"x"]
            )
        data += varint(field << 3 | 2) + varint(len(inner)) + inner
    return data


def test_messages_that_are_well_formed_and_mean_nothing(doors):
    """What a program of this machine could say if it were out of its mind, to raylets and to other programs."""
    dice = random.Random(3)
    context = ray.get_runtime_context()
    ids = [bytes.fromhex(text) for text in (context.get_node_id(), context.get_job_id(), context.get_worker_id())]
    told = [tag for tag in range(1, 80) if tag not in (SHUTDOWN, UNNEEDED, RETIRES)]
    for _ in range(60):
        for address in doors.sockets:
            frames = b""
            for _ in range(dice.randrange(1, 7)):
                inner = some_message(dice, ids)
                tag = 1 if not frames and dice.random() < 0.5 else dice.choice(told)
                message = varint(tag << 3 | 2) + varint(len(inner)) + inner
                if dice.random() < 0.2:
                    # One bit is another.
                    at = dice.randrange(len(message))
                    message = message[:at] + bytes([message[at] ^ 1 << dice.randrange(8)]) + message[at + 1 :]
                frames += struct.pack("<I", len(message)) + message
            throw(address, [frames[: dice.choice([len(frames), dice.randrange(len(frames) + 1)])]])
    doors.check()


def test_readers_that_ask_for_what_is_not_there_or_stop_in_the_middle(doors):
    import numpy as np

    value = ray.put(np.ones(8 << 20, dtype=np.uint8))
    from ray_rs import _core

    (row,) = [row for row in _core.store_objects() if row["length"] >= 8 << 20]
    here = bytes.fromhex(ray.get_runtime_context().get_node_id())
    address = doors.nodes[0]

    def ask(stream, offset, length, generation, skip=0, node=here, failed=b"\xff" * ID_BYTES):
        stream.sendall(struct.pack("<4Q", offset, length, generation, skip) + node + failed)
        return stream.recv(1)

    def reader():
        stream = shake_hands(address, doors.token)
        stream.sendall(greeting(DATA))
        assert receive(stream, 1) == bytes([WELCOME])
        return stream

    offset, length, generation = row["offset"], row["length"], row["generation"]
    bad = [(0, 10, 0), (offset, 10, generation + 1), (2**64 - 1, 2**64 - 1, 1), (offset, 2**63, generation), (7, 7, 7)]
    with reader() as stream:
        for question in bad:
            assert ask(stream, *question) == b"\x00", question
        # A value of a node that nobody knows.
        assert ask(stream, offset, length, generation, node=b"\x09" * ID_BYTES) == b"\x00"
        # Still the same connection: this one is there, and one may have its end alone.
        assert ask(stream, offset, length, generation, skip=length - 100) == b"\x01"
        assert len(receive(stream, 100)) == 100
        stream.sendall(b"\x01")
        # More than it all is nonsense, after which nothing is said any more.
        assert ask(stream, offset, length, generation, skip=length + 1) == b""
    for _ in range(20):
        with reader() as stream:
            assert ask(stream, offset, length, generation) == b"\x01"
            receive(stream, 1000)  # and goes away
    doors.check()
    assert int(ray.get(value).sum()) == 8 << 20


def test_another_version_of_the_wire_is_told_which(doors):
    for address in doors.nodes:
        with shake_hands(address, doors.token) as stream:
            stream.sendall(greeting(RAYLET, version=99))
            assert receive(stream, 5) == bytes([OTHER_VERSION]) + struct.pack("<I", WIRE_VERSION)
            assert stream.recv(1) == b""
    doors.check()
