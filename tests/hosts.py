"""Machines that are none: network namespaces, each with an address of its own on one bridge, whose links can be taken
down, slowed, and counted. What runs in one shares nothing with the others but files and process numbers."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_numbers = itertools.count(os.getpid() % 200)


def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=check, timeout=60)


def what_is_missing() -> str:
    """Why there can be no namespaces here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs the program ip (Debian, Ubuntu: apt install iproute2)"
    name = f"rrs-try-{os.getpid()}"
    try:
        tried = run("ip", "netns", "add", name, check=False)
        if tried.returncode != 0:
            return f"needs network namespaces: {tried.stderr.strip()}"
        tried = run("ip", "link", "add", "rrs-try", "type", "veth", "peer", "name", "eth0", "netns", name, check=False)
        return f"needs veth links: {tried.stderr.strip()}" if tried.returncode != 0 else ""
    finally:
        run("ip", "netns", "del", name, check=False)


class Host:
    """One namespace, with its own place for sessions as on another machine."""

    def __init__(self, network: "Network", number: int) -> None:
        self.name = f"{network.name}h{number}"
        # The end outside; names of links may have fifteen letters.
        self.link = f"{network.name}v{number}"
        self.address = f"{network.prefix}.{number}"
        self.root = tempfile.mkdtemp(prefix=f"h{number}-", dir=os.environ["RAY_RS_TMPDIR"])
        os.chmod(self.root, 0o700)
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", self.link, "master", network.bridge, "up")
        run("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", self.name, "link", "set", "eth0", "up")
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def words(self, *words: str) -> list[str]:
        """The command line that runs these words there."""
        return ["ip", "netns", "exec", self.name, *words]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "RAY_RS_TMPDIR": self.root, **more}

    def ray_rs(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Runs the command line there; what it prints, on stderr if it is to fail."""
        done = subprocess.run(
            self.words(sys.executable, "-m", "ray_rs.scripts", *arguments),
            capture_output=True,
            text=True,
            timeout=90,
            env=self.environment(**environment),
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def raylet_pid(self) -> int:
        """Of the one node that runs there."""
        (session,) = Path(self.root).glob("session_2*/session.json")
        return int(json.loads(session.read_text())["raylet_pid"])

    def cut(self) -> None:
        """Pulls the plug: nothing gets in or out, and nobody is told."""
        run("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        run("ip", "link", "set", self.link, "up")

    def slow_down(self, megabits: int) -> None:
        """Bounds what goes to it and what comes from it."""
        shape = ["tbf", "rate", f"{megabits}mbit", "burst", "256kb", "latency", "200ms"]
        run("tc", "qdisc", "replace", "dev", self.link, "root", *shape)
        run("ip", "netns", "exec", self.name, "tc", "qdisc", "replace", "dev", "eth0", "root", *shape)

    def sent_bytes(self) -> int:
        # What the end outside has received.
        return int(Path(f"/sys/class/net/{self.link}/statistics/rx_bytes").read_text())

    def end(self) -> None:
        # Its link goes with it.
        run("ip", "netns", "del", self.name, check=False)
        run("ip", "link", "del", self.link, check=False)
        shutil.rmtree(self.root, ignore_errors=True)


class Network:
    """A bridge and its hosts; the first is the head's."""

    def __init__(self) -> None:
        number = next(_numbers) % 250
        self.name = f"rrs{os.getpid() % 10000}n{number % 10}"
        self.bridge = f"{self.name}b"
        self.prefix = f"10.213.{number}"
        self.hosts: list[Host] = []
        self.token = ""
        self.gcs_address = ""
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "link", "set", self.bridge, "up")

    def add_host(self) -> Host:
        host = Host(self, len(self.hosts) + 1)
        self.hosts.append(host)
        return host

    def start(self, host: Host, *arguments: str) -> str:
        """Starts a node there: the head if it is the first."""
        place = f"--node-ip-address={host.address}"
        if self.gcs_address:
            with_token = ["start", f"--address={self.gcs_address}", f"--token-file={self.token}"]
            return host.ray_rs(*with_token, place, *arguments)
        text = host.ray_rs("start", "--head", "--port=0", place, *arguments)
        (self.gcs_address,) = re.findall(r"--address=(\S+)", text)
        (self.token,) = re.findall(r"^\s+(/\S+/token)$", text, re.MULTILINE)
        return text

    def end(self) -> None:
        for host in reversed(self.hosts):
            host.mend()
            host.ray_rs("stop")
            host.end()
        run("ip", "link", "del", self.bridge, check=False)


@pytest.fixture
def network() -> Iterator[Network]:
    """An empty network; skips where there can be none, saying what is missing."""
    if missing := what_is_missing():
        pytest.skip(missing)
    made = Network()
    yield made
    made.end()
