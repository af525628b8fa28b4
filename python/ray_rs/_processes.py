"""The processes that `init` starts or joins, and what a driver tells them about itself."""

from __future__ import annotations

import os
import sys
from typing import Any

from ray_rs import _core

__all__ = [
    "available_memory_bytes",
    "cpu_count",
    "driver_config",
    "gpu_count",
    "is_running",
    "launch_head",
    "list_nodes",
    "living_sessions",
    "object_store_bytes",
    "stop_node",
    "tracing_hook",
    "web_address",
    "web_options",
]

# Where the web service listens unless somebody says otherwise; as Ray's dashboard.
WEB_PORT = 8265
MIN_OBJECT_STORE_BYTES = 75 * 1024 * 1024
_MAX_OBJECT_STORE_BYTES = 200 * 10**9

# Set in drivers.
_anonymous = False


def namespace_is_anonymous() -> bool:
    """Whether the job's namespace was made up by `init`."""
    return _anonymous


def is_worker() -> bool:
    """Whether this process runs tasks or an actor."""
    return _core.is_initialized() and not _core.process_info()["is_driver"]


# ------------------------------------------------------------------------------------------------------------ hardware


def cpu_count() -> int:
    """Processors this process may use: affinity and, rounded down but at least one, the control group's quota."""
    usable = len(os.sched_getaffinity(0))
    quota = _cgroup_cpus()
    return usable if quota is None else max(1, min(usable, int(quota)))


def _cgroup_cpus() -> float | None:
    words = _read("/sys/fs/cgroup/cpu.max").split()  # version 2
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()  # version 1
    period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def gpu_count() -> int:
    """GPUs this process may use: those of CUDA_VISIBLE_DEVICES, else those the kernel's driver knows."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([each for each in visible.split(",") if each.strip() not in ("", "-1", "NoDevFiles")])
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0


def available_memory_bytes() -> int:
    """Memory that this process and its children may still use."""
    free = 0
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
            break
    for limit_file, use_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit, use = _read(limit_file).strip(), _read(use_file).strip()
        if limit.isdigit() and use.isdigit():
            free = min(free, max(int(limit) - int(use), 0))
    return free


def total_memory_bytes() -> int:
    """Memory of the machine, or of the container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit_file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _read(limit_file).strip()
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def object_store_bytes() -> int:
    """Default size of the object store: 30 % of the free memory. Where `/dev/shm` is smaller, it lies elsewhere."""
    wish = min(available_memory_bytes() * 3 // 10, _MAX_OBJECT_STORE_BYTES)
    return max(wish, MIN_OBJECT_STORE_BYTES)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


# -------------------------------------------------------------------------------------------------------------- driver


def driver_config(*, namespace: str | None, log_to_driver: bool) -> dict[str, Any]:
    """What workers need to be like this driver, and what its job is to be like.

    Args:
        namespace: The job's namespace; one is made up when None.
        log_to_driver: What workers print is wanted here.

    Returns:
        Plain values only: the raylet reads them without Python.
    """
    global _anonymous
    _anonymous = namespace is None
    cwd = _cwd()
    # The working directory stands for '' in interactive sessions; workers get it by name.
    entries = [entry for entry in sys.path if isinstance(entry, str) and _is_text(entry)]
    sys_path = [os.path.join(cwd, entry) if entry else cwd for entry in entries]
    script_directory = _script_directory()
    if script_directory and script_directory not in sys_path:
        sys_path.insert(0, script_directory)
    return {
        "sys_path": sys_path,
        "cwd": cwd,
        "executable": sys.executable,
        "preload": _preload(),
        "env": {name: value for name, value in os.environ.items() if _is_text(name + value)},
        "namespace": namespace or _uuid4(),
        "entrypoint": " ".join(argument for argument in sys.orig_argv if _is_text(argument)),
        "log_to_driver": log_to_driver,
    }


def _cwd() -> str:
    try:
        cwd = os.getcwd()
    except OSError:  # it was removed
        return "/"
    return cwd if _is_text(cwd) else "/"


def _is_text(value: str) -> bool:
    """False for bytes that are no UTF-8, which Python keeps as lone surrogates and the raylet can't read."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _script_directory() -> str | None:
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    return os.path.dirname(os.path.abspath(path)) if path else None


def _preload() -> list[str]:
    """Modules that zygotes import before they fork: what costs most and is already in use here.

    What unpickles functions and classes is needed in every worker: imported once, its pages are shared by all of them.
    """
    # Editable installs may consist of an import hook, which `site` would have set up; others may come through it.
    hooks = [name for name in sys.modules if name.startswith("__editable__")]
    # With `ray_rs.as_ray`, `import ray` means in the workers what it means here.
    in_use = [name for name in ("ray_rs.as_ray", "numpy") if name in sys.modules]
    return [*hooks, "cloudpickle.cloudpickle", *in_use]


def _uuid4() -> str:
    """A random UUID, without the module, which costs milliseconds to import."""
    digits = bytearray(os.urandom(16))
    digits[6] = digits[6] & 0x0F | 0x40
    digits[8] = digits[8] & 0x3F | 0x80
    text = digits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def exit_on_sigterm() -> None:
    """Makes SIGTERM end this process as `sys.exit` does, so that the session is ended and the last lines appear.

    A handler of the user's stays. Processes forked from this one die of the signal as ever.
    """
    import signal

    driver = os.getpid()

    def on_sigterm(number: int, frame: Any) -> None:
        if os.getpid() == driver:
            sys.exit(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        try:
            signal.signal(signal.SIGTERM, on_sigterm)
        except ValueError:  # not in the main thread
            return


# ---------------------------------------------------------------------------------------------------------------- head


def launch_head(
    *,
    num_cpus: int,
    num_gpus: int,
    resources: dict[str, float],
    memory: int | None = None,
    object_store_memory: int,
    spill_directory: str = "",
    labels: dict[str, str],
    driver_config: dict[str, Any] | None,
    **cluster: Any,
) -> dict[str, Any]:
    """Starts a control store and a raylet that end with this process.

    The raylet gets the driver's configuration at once, if it is given, so that workers come to life while the driver
    still connects.

    Args:
        num_cpus: Logical processors.
        num_gpus: Logical GPUs.
        resources: Further resources by name.
        memory: The resource of this name, in bytes; 70 % of the free memory when None.
        object_store_memory: Size of the object store in bytes.
        spill_directory: Where objects go that find no room; empty: into the session's directory.
        labels: Labels of the node.
        driver_config: What `driver_config` gave; None: the driver is not known yet.
        **cluster: For a node that is not alone: "listen" and "gcs_listen" (addresses for other nodes), "join" (the
            cluster), and what else `ray_rs_cli::HeadConfig` has.

    Returns:
        The content of the session's `session.json`, and "session_dir".
    """
    import json

    if "join" not in cluster:
        cluster.setdefault("tls", os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"))
    config = {
        "python": sys.executable,
        "core_path": _core.__file__,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "memory": available_memory_bytes() * 7 // 10 if memory is None else memory,
        "object_store_memory": object_store_memory,
        "spill_directory": spill_directory,
        "labels": labels,
        "driver_pid": os.getpid(),
        "driver_config": driver_config,
        "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        **cluster,
    }
    try:
        return json.loads(_core.launch_head(json.dumps(config)))  # type: ignore[no-any-return]
    except RuntimeError as error:
        if "session directory" not in str(error):
            raise
        raise RuntimeError(
            f"{error}. Sessions lie where the environment variable RAY_RS_TMPDIR says: name a directory there that you "
            "can write to, with a short path."
        ) from None


def stop_node(session_dir: str) -> None:
    """Ends the daemons of a session; returns when they are gone.

    Args:
        session_dir: As `launch_head` told it.
    """
    _core.stop_head(session_dir)


def list_nodes(address: str, token_path: str) -> list[dict[str, Any]]:
    """Nodes of a cluster, without being connected to it.

    Args:
        address: Of its control store: "host:port", or the path of its socket.
        token_path: File with the cluster's token.

    Returns:
        A dictionary for each node, dead ones too.

    Raises:
        ConnectionError: The control store cannot be reached, does not take the token, or does not answer within 5 s.
    """
    return _core.list_nodes(address, token_path)


def web_options(host: str, port: int | None) -> dict[str, Any]:
    """What `launch_head` has to know for a web service.

    Args:
        host: Numeric address, with any port.
        port: Where it listens; None: the usual port, or one of the next that is free.

    Returns:
        Further arguments.
    """
    wanted = WEB_PORT if port is None else port
    return {"web_listen": f"{host.rpartition(':')[0]}:{wanted}", "web_may_move": port is None}


def web_address(session_dir: str) -> str:
    """Where a session's web service listens.

    Args:
        session_dir: The session's directory.

    Returns:
        "host:port"; empty: there is none.
    """
    return _read(f"{session_dir}/dashboard_address").strip()


def tracing_hook(session_dir: str) -> str:
    """The hook that `ray_rs start --tracing-startup-hook` gave to drivers which join this node.

    Args:
        session_dir: The session's directory.

    Returns:
        "module:function"; empty: there is none.
    """
    return _read(f"{session_dir}/tracing_startup_hook").strip()


def drain_node(address: str, token_path: str, node_id: str, reason: int, message: str, remaining_ms: int) -> str:
    """Asks a node to take nothing new, and to leave when what it runs has ended.

    Args:
        address: Of the cluster's control store, as for `list_nodes`.
        token_path: File with the cluster's token.
        node_id: The node, in hex.
        reason: 1: it is idle, and agrees only if it is; 2: it will be gone soon.
        message: For people.
        remaining_ms: It leaves after so long, whatever still runs; 0: it waits for that.

    Returns:
        Why it does not; empty: it has agreed.

    Raises:
        ConnectionError: As for `list_nodes`.
    """
    return _core.drain_node(address, token_path, bytes.fromhex(node_id), reason, message, remaining_ms)


def living_sessions() -> list[dict[str, Any]]:
    """The living sessions of this user on this machine, oldest first.

    Returns:
        Of each the content of its `session.json`, and "session_dir".
    """
    import json

    return [json.loads(text) for text in _core.list_sessions()]


def is_running(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not.

    Args:
        pid: Its number.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
