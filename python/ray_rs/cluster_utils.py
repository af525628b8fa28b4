"""Clusters of several nodes on one machine, for tests: real raylets, each with its own workers and object store."""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray_rs import _processes

__all__ = ["AutoscalingCluster", "Cluster", "ClusterNode", "cluster_not_supported"]

# What test files written for Ray ask before they start one.
cluster_not_supported = False

_POLL_S = 0.01
_OBJECT_STORE_BYTES = 150 * 1024 * 1024


class ClusterNode:
    """One node of a `Cluster`.

    Attributes:
        node_id: The node's id, as `ray_rs.nodes()` gives it.
        session_dir: Its sockets and logs.
        raylet_pid: Process of its raylet.
    """

    def __init__(self, node_id: str, session: dict[str, Any], *, is_head: bool) -> None:
        self.node_id = node_id
        self.unique_id = node_id
        self.session_dir: str = session["session_dir"]
        self.raylet_pid: int = session["raylet_pid"]
        self.is_head = is_head
        self._ended = False

    @property
    def head(self) -> bool:
        """Whether it is the head; the same as `is_head`."""
        return self.is_head

    def get_session_dir_path(self) -> str:
        """Directory of the node's sockets and logs."""
        return self.session_dir

    def kill_raylet(self) -> None:
        """Ends the node as a power cut would: SIGKILL to its raylet, of which its workers then die."""
        try:
            os.kill(self.raylet_pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def __repr__(self) -> str:
        return f"ClusterNode({self.node_id[:12]}, {'head' if self.is_head else 'worker'})"


class Cluster:
    """Several nodes on this machine.

    Example:
        >>> cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        >>> cluster.add_node(num_cpus=2, resources={"special": 1})
        >>> ray_rs.init(address=cluster.address)
        >>> ray_rs.shutdown()
        >>> cluster.shutdown()
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        """Makes a cluster, by itself of no node.

        Args:
            initialize_head: Start the head node at once.
            connect: Connect this process as a driver, too.
            head_node_args: As `add_node` takes them.
            shutdown_at_exit: End the cluster with this process at the latest. (It ends in any case when this process is
                killed.)

        Raises:
            RuntimeError: `connect` without `initialize_head`.
        """
        self.head_node: ClusterNode | None = None
        self.worker_nodes: set[ClusterNode] = set()
        self.connected = False
        self._address = ""
        if connect and not initialize_head:
            raise RuntimeError("Cannot connect to uninitialized cluster.")
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()
        if shutdown_at_exit:
            atexit.register(self.shutdown)

    @property
    def address(self) -> str:
        """Where the head's control store listens, for `ray_rs.init(address=...)`."""
        return self._address

    @property
    def gcs_address(self) -> str:
        """The same as `address`."""
        return self._address

    @property
    def address_info(self) -> dict[str, Any]:
        """`address` as a dictionary, under "address" and "gcs_address"."""
        return {"address": self._address, "gcs_address": self._address}

    def connect(self, namespace: str | None = None) -> None:
        """Connects this process to the cluster as a driver.

        Args:
            namespace: Where named actors of the job live; a random one when None.
        """
        from ray_rs import api

        api.init(address=self._address, namespace=namespace)
        self.connected = True

    def add_node(
        self,
        wait: bool = True,
        *,
        num_cpus: int = 1,
        num_gpus: int = 0,
        object_store_memory: int = 150 * 1024 * 1024,
        resources: dict[str, float] | None = None,
        labels: dict[str, str] | None = None,
        node_name: str = "",
        memory: int | None = None,
        env_vars: dict[str, str] | None = None,
        include_dashboard: bool = False,
        dashboard_port: int | None = None,
        enable_object_reconstruction: bool | None = None,
        _system_config: dict[str, Any] | None = None,
    ) -> ClusterNode:
        """Starts a node; the first one is the head.

        Args:
            wait: Return when the node is part of the cluster.
            num_cpus: Its logical processors.
            num_gpus: Its logical GPUs.
            object_store_memory: Size of its object store in bytes.
            resources: Further resources by name.
            labels: Its labels.
            node_name: A name for people.
            memory: The resource of this name, in bytes; 70 % of the free memory when None.
            env_vars: Further variables of the environment for its processes. Workers see those that their driver does
                not have itself.
            include_dashboard: Of the first node: take jobs and answer REST over HTTP.
            dashboard_port: Where; 8265 or one of the next that is free when None.
            enable_object_reconstruction: Of no effect: lost results are always made again.
            _system_config: Ray's knobs; of no effect.

        Returns:
            The node.

        Raises:
            TimeoutError: The node did not come.
        """
        node_id = os.urandom(28).hex()
        cluster: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "node_id": node_id,
            "node_name": node_name,
            "outlives_goodbye": True,
        }
        if include_dashboard and self.head_node is None:
            cluster |= _processes.web_options("127.0.0.1:0", dashboard_port)
        if self.head_node is not None:
            token_path = os.path.join(self.head_node.session_dir, "token")
            cluster["join"] = {"gcs_address": self._address, "token_path": token_path}
        with _environment(env_vars):
            session = _processes.launch_head(
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                resources=resources or {},
                memory=None if memory is None else int(memory),
                object_store_memory=int(object_store_memory),
                labels=labels or {},
                driver_config=None,
                **cluster,
            )
        node = ClusterNode(node_id, session, is_head=self.head_node is None)
        if self.head_node is None:
            self.head_node = node
            self._address = _written(os.path.join(node.session_dir, "gcs_address"))
        else:
            self.worker_nodes.add(node)
        if wait:
            self._wait_for(lambda nodes: node_id in nodes, f"node {node_id}", 30)
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """Ends a node.

        Args:
            node: What `add_node` returned.
            allow_graceful: Let it say goodbye; else it is killed, and the cluster finds out.
        """
        if node._ended:
            return
        node._ended = True
        if not allow_graceful:
            node.kill_raylet()
        _processes.stop_node(node.session_dir)
        self.worker_nodes.discard(node)
        if node is self.head_node:
            self.head_node = None

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Waits until the cluster consists of exactly the nodes that were added and not removed.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: It does not.
        """
        expected = {node.node_id for node in self.list_all_nodes()}
        self._wait_for(lambda nodes: nodes == expected, f"{len(expected)} nodes", timeout)

    def _wait_for(self, condition: Any, what: str, timeout: float) -> None:
        if self.head_node is None:
            raise RuntimeError("The cluster has no head node.")
        deadline = time.monotonic() + timeout
        while True:
            try:
                directory = self.head_node.session_dir
                listed = _processes.list_nodes(f"{directory}/sockets/gcs", f"{directory}/token")
                if condition({node["node_id"] for node in listed if node["alive"]}):
                    return
            except ConnectionError:
                # It is only starting.
                listed = []
            if time.monotonic() > deadline:
                alive = sum(node["alive"] for node in listed)
                raise TimeoutError(f"Waited {timeout} s in vain for {what}; the cluster has {alive} living nodes.")
            time.sleep(_POLL_S)

    def list_all_nodes(self) -> list[ClusterNode]:
        """The nodes that were added and not removed, the head first."""
        head = [] if self.head_node is None else [self.head_node]
        return [*head, *self.worker_nodes]

    def remaining_processes_alive(self) -> bool:
        """Whether the raylets of all nodes run."""
        return all(_processes.is_running(node.raylet_pid) for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """Ends all nodes, the head last."""
        for node in [*self.worker_nodes]:
            self.remove_node(node)
        if self.head_node is not None:
            self.remove_node(self.head_node)
        atexit.unregister(self.shutdown)


class AutoscalingCluster:
    """A cluster on this machine that grows and shrinks as work needs it, for tests: its nodes are real.

    Example:
        >>> cluster = AutoscalingCluster(
        ...     head_resources={"CPU": 0},
        ...     worker_node_types={"worker": {"resources": {"CPU": 2}, "min_workers": 0, "max_workers": 3}},
        ...     idle_timeout_minutes=0.1,
        ... )
        >>> cluster.start()
        >>> ray_rs.init(address=cluster.address)
        >>> ray_rs.shutdown()
        >>> cluster.shutdown()
    """

    def __init__(
        self,
        head_resources: dict[str, float],
        worker_node_types: dict[str, Any],
        autoscaler_v2: bool = False,
        **config_kwargs: Any,
    ) -> None:
        """Makes a cluster that is not started.

        Args:
            head_resources: What the head has; without "CPU": none.
            worker_node_types: Types of nodes by name: "resources", "min_workers", "max_workers", "labels".
            autoscaler_v2: Of no effect: there is one autoscaler.
            **config_kwargs: Further keys of a configuration, such as `idle_timeout_minutes` and `max_workers`.

        Raises:
            ValueError: The configuration makes no sense.
        """
        from ray_rs import _autoscaling

        self._head = {name: float(amount) for name, amount in head_resources.items()}
        self._config = _autoscaling.of_cluster(worker_node_types, config_kwargs)
        self._session: dict[str, Any] | None = None
        self.address = ""

    def start(self, _system_config: dict[str, Any] | None = None, override_env: dict[str, str] | None = None) -> None:
        """Starts the head.

        Args:
            _system_config: Ray's knobs; of no effect.
            override_env: Further variables of the environment for its processes.

        Raises:
            RuntimeError: It was started already.
        """
        if self._session is not None:
            raise RuntimeError("The cluster has been started already.")
        head = dict(self._head)
        with _environment(override_env):
            self._session = _processes.launch_head(
                num_cpus=int(head.pop("CPU", 0)),
                num_gpus=int(head.pop("GPU", 0)),
                memory=int(head.pop("memory", 0)) or None,
                object_store_memory=int(head.pop("object_store_memory", _OBJECT_STORE_BYTES)),
                resources=head,
                labels={},
                driver_config=None,
                listen="127.0.0.1:0",
                outlives_goodbye=True,
                autoscaling=self._config,
            )
        atexit.register(self.shutdown)
        self.address = _written(os.path.join(self._session["session_dir"], "gcs_address"))

    def shutdown(self) -> None:
        """Ends the cluster with all its nodes."""
        session, self._session = self._session, None
        if session is not None:
            _processes.stop_node(session["session_dir"])
            atexit.unregister(self.shutdown)


@contextmanager
def _environment(given: dict[str, str] | None) -> Iterator[None]:
    """Variables of the environment for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in given or {}}
    os.environ.update(given or {})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _written(path: str) -> str:
    """The content of a file that a daemon is about to write."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with open(path) as file:
                return file.read().strip()
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise TimeoutError("The control store did not start; see its log.") from None
        time.sleep(_POLL_S)
