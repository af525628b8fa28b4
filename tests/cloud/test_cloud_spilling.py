"""Objects spilled straight to a store that speaks S3: `make test-cloud` builds the engine for it, and the server."""

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from under_test import exceptions, ray, ray_rs_only, run_driver, start_driver, wait_until

pytestmark = [ray_rs_only("Ray spills there through packages of its own"), pytest.mark.timeout(120)]
MIB = 2**20
SERVER = Path(os.environ.get("S3S_FS", Path(__file__).parents[2] / "target/tools/bin/s3s-fs"))
BUCKET = "a-bucket"


class Server:
    """An S3 server whose buckets are directories."""

    def __init__(self, root: Path):
        self.root = root
        (root / BUCKET).mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        keys = ["--access-key", "a-key", "--secret-key", "a-secret"]
        command = [str(SERVER), "--host", "127.0.0.1", "--port", str(self.port), *keys, str(root)]
        with open(root.parent / "server.log", "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self.answers, "the server to listen")

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def files(self) -> list[Path]:
        """Objects in the bucket; what begins with a dot is the server's own."""
        found = (self.root / BUCKET).rglob("objects-*")
        return [path for path in found if path.is_file() and not path.name.startswith(".")]

    def variables(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "a-key",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
        }


@pytest.fixture
def server(no_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    root = tmp_path / "root"
    root.mkdir()
    server = Server(root)
    for name, value in server.variables().items():
        monkeypatch.setenv(name, value)
    yield server
    ray.shutdown()
    server.process.kill()
    server.process.wait()


def start(**others: Any) -> None:
    url = others.pop("url", f"s3://{BUCKET}/some/prefix")
    ray.init(num_cpus=2, object_store_memory=100 * MIB, object_spilling_directory=url, **others)


def test_there_and_back_and_gone(server: Server) -> None:
    start()
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    assert server.files()
    assert all("some/prefix/ray_spilled_session_" in str(path) for path in server.files())
    for _ in range(2):
        assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))
    # More at once than the store holds, and as arguments.
    assert all((view == i).all() for i, view in enumerate(ray.get(refs)))

    @ray.remote
    def total(*arrays: Any) -> int:
        return sum(int(array[0]) for array in arrays)

    assert ray.get(total.remote(*refs[:10])) == 45
    refs.clear()
    wait_until(lambda: not server.files(), "the files to go with their objects")


def test_nothing_stays_at_the_end_of_the_session(server: Server) -> None:
    start()
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    assert server.files() and refs
    ray.shutdown()
    wait_until(lambda: not server.files(), "the files to go with the session")


DRIVER = """
import sys, time
import numpy as np
ray.init(num_cpus=1, object_store_memory=100 * 2**20, object_spilling_directory=sys.argv[1])
refs = [ray.put(np.full(5 * 2**20, i, dtype=np.uint8)) for i in range(60)]
print("full", flush=True)
time.sleep(1000)
"""


def test_nothing_stays_of_a_killed_driver(server: Server) -> None:
    driver = start_driver(DRIVER, f"s3://{BUCKET}")
    assert driver.stdout.readline().strip() == "full"
    assert server.files()
    driver.kill()
    wait_until(lambda: not server.files(), "the files to go")


def test_wrong_credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    refused(server)


class NoSuchBucket(http.server.BaseHTTPRequestHandler):
    """What Amazon answers; the server of the other tests makes buckets as needed."""

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>"
        self.send_response(404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = do_DELETE = do_POST = refuse

    def log_message(self, *_: Any) -> None:
        pass


def test_no_such_bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NoSuchBucket)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{other.server_port}")
        refused(server, match="NoSuchBucket")
        ray.shutdown()
    finally:
        other.shutdown()
        thread.join()
        other.server_close()


def refused(server: Server, match: str = "") -> None:
    start()
    refs = []
    with pytest.raises(exceptions.OutOfDiskError, match=rf"spilled to s3://.*{match}.*still in memory"):
        for i in range(60):
            refs.append(ray.put(np.full(5 * MIB, i, dtype=np.uint8)))
    assert len(refs) >= 15 and not server.files()
    assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))
    # With room again all goes on.
    refs.clear()
    assert ray.get(ray.put(np.ones(20 * MIB, dtype=np.uint8)))[-1] == 1


def test_damaged_and_missing_objects(server: Server) -> None:
    start()
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    first, *others = sorted(server.files(), key=lambda path: int(path.name.partition("-")[2]))
    first.unlink()
    for path in others:
        data = bytearray(path.read_bytes())
        for at in range(1000, len(data), 2 * MIB):
            data[at] ^= 255
        path.write_bytes(data)
    texts = []
    for i, ref in enumerate(refs):
        try:
            assert (ray.get(ref) == i).all()
        except exceptions.ObjectLostError as error:
            texts.append(str(error))
    assert any("corrupt" in text for text in texts) and any("cannot be read" in text for text in texts)


def test_the_server_goes_away_and_comes_back(server: Server) -> None:
    start()
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    server.process.kill()
    server.process.wait()
    waiting = refs[0].future()
    server.process = subprocess.Popen(server.process.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(server.answers, "the server to listen again")
    assert (waiting.result(60) == 0).all()
    assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))


def test_a_multipart_upload(server: Server) -> None:
    """Of one object that is larger than what is written in one piece."""
    run_driver(
        """
        import sys
        import numpy as np
        ray.init(num_cpus=1, object_store_memory=600 * 2**20, object_spilling_directory=sys.argv[1])
        refs = [ray.put(np.full(200 * 2**20, i, dtype=np.uint8)) for i in range(4)]
        for i, ref in enumerate(refs):
            array = ray.get(ref)
            assert (array == i).all()
            del array
        """,
        f"s3://{BUCKET}",
        timeout=110,
    )
    wait_until(lambda: not server.files(), "the files to go")
