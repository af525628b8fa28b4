"""Starting and ending a session, decorators, and questions to the cluster.

`get`, `put`, `wait` and `kill` are native; `ray_rs` re-exports them as they are.
"""

from __future__ import annotations

import os
import sys
import types
from _thread import RLock
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray_rs import _client, _core, _init_options, _logs, _notebook, _processes
from ray_rs._contexts import ClientContext, RayContext
from ray_rs.exceptions import RaySystemError
from ray_rs.options import LIFETIME_VARIABLE, REMOTE_USAGE, check_namespace

if TYPE_CHECKING:
    from ray_rs._typing import remote

__all__ = [
    "ClientContext",
    "RayContext",
    "available_resources",
    "cluster_resources",
    "get_actor",
    "get_gpu_ids",
    "init",
    "nodes",
    "remote",
    "shutdown",
]

_lock = RLock()
# The session that this process is part of: its session_dir, and whether this process started it.
_session: dict[str, Any] = {}

_NOT_STARTED = "Ray has not been started yet. You can start Ray with 'ray.init()'."

# As `_tracing.VARIABLE`, whose module is imported only where somebody traces.
_TRACING_VARIABLE = "RAY_RS_TRACING_STARTUP_HOOK"


def _context() -> RayContext:
    return (ClientContext if _client.is_connected() else RayContext)(_address_info())


def init(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config: Any = None,
    configure_logging: bool = True,
    logging_level: int | str = "info",
    logging_format: str | None = None,
    logging_config: Any = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    enable_resource_isolation: bool = False,
    cgroup_path: str | None = None,
    system_reserved_cpu: float | None = None,
    system_reserved_memory: int | None = None,
    proxy_server_url: str | None = None,
    **kwargs: Any,
) -> RayContext:
    """Starts a local session, or joins one that runs.

    Args:
        address: None joins the session that RAY_ADDRESS names, else the newest that `ray_rs start` has started on this
            machine, else it starts one; "local" starts one whatever there is; "auto" joins the newest one of this user
            on this machine, "host:port" joins that one. "ray://host:port" connects to a cluster from outside, over the
            one port of its head.
        num_cpus: Logical processors; all that this process may use when None.
        num_gpus: Logical GPUs; those found when None.
        resources: Further resources by name.
        labels: Labels of the node.
        object_store_memory: Size of the object store in bytes; 30 % of the free memory when None.
        local_mode: Not supported any more; must be False.
        ignore_reinit_error: Return the running session instead of raising when there is one.
        include_dashboard: True: take jobs and answer REST over HTTP, from a process that starts when somebody connects.
        dashboard_host: Where that listens: a numeric address.
        dashboard_port: The same; 8265, or one of the next that is free, when None.
        job_config: A `ray_rs.job_config.JobConfig`: runtime environment, namespace, lifetime of actors.
        configure_logging: False sends the engine's messages to the logger "ray_rs" instead of stderr.
        logging_level: Least severe level of the engine's own messages.
        logging_format: Without effect; use `configure_logging=False` and `logging` for a format of your own.
        logging_config: A `LoggingConfig`: sets Python's root logger up, here and in all workers.
        log_to_driver: Show what workers print; RAY_LOG_TO_DRIVER, else True, when None.
        namespace: Where named actors of this job live; a random one when None.
        runtime_env: What the job's workers have besides what this process has; see `ray_rs.runtime_env.RuntimeEnv`.
        enable_resource_isolation: Not supported yet; must be False.
        cgroup_path: Not supported yet; must be None.
        system_reserved_cpu: Not supported yet; must be None.
        system_reserved_memory: Not supported yet; must be None.
        proxy_server_url: Without effect.
        **kwargs: Hidden options of Ray, refused where they ask for something that is not there.

    Returns:
        Where the session is; also a context manager that ends it.

    Raises:
        RuntimeError: Called twice, or with an unknown option.
        TypeError: An argument of the wrong type.
        ValueError: A bad argument.
        NotImplementedError: An option of Ray's that is not there.
        ConnectionError: Nothing runs at the address.
    """
    tracing_hook = kwargs.pop("_tracing_startup_hook", None)
    allow_multiple = bool(kwargs.get("allow_multiple"))
    hidden = _init_options.check_hidden(kwargs)
    if local_mode:
        raise RuntimeError("`local_mode` is no longer supported. Use a debugger on the plain function instead.")
    with _lock:
        if _core.is_initialized():
            if allow_multiple:
                raise NotImplementedError(
                    "allow_multiple is not supported: a process has one connection. End it with ray.shutdown(), or "
                    "connect from another process."
                )
            if not ignore_reinit_error:
                raise RuntimeError(
                    "Maybe you called ray.init twice by accident? This error can be suppressed by passing in "
                    "'ignore_reinit_error=True' or by calling 'ray.shutdown()' prior to 'ray.init()'."
                )
            _logs.info("Calling ray.init() again after it has already been called.")
            return _context()
        check_namespace(namespace)
        logging_config = _init_options.checked_logging(logging_config)
        namespace, runtime_env, lifetime = _init_options.checked_job(job_config, namespace, runtime_env)
        submitted = _init_options.of_submitted_job()
        runtime_env = _init_options.laid_over(submitted.get("runtime_env"), runtime_env)
        _init_options.refuse(
            enable_resource_isolation=enable_resource_isolation,
            cgroup_path=cgroup_path,
            system_reserved_cpu=system_reserved_cpu,
            system_reserved_memory=system_reserved_memory,
        )
        if log_to_driver is None:
            log_to_driver = os.environ.get("RAY_LOG_TO_DRIVER", "1").lower() not in ("0", "false")
        _logs.configure(
            level=logging_level,
            use_logging=not configure_logging,
            show_workers=log_to_driver,
            structured=logging_config is not None,
        )
        target = _target(address)
        place = None if target is None else target.get("client_of")
        if place is not None:
            namespace, runtime_env = _client.defaults(namespace, runtime_env)
        config = _processes.driver_config(namespace=namespace, log_to_driver=log_to_driver)
        if place is not None:
            _client.driver_config(config)
        env = _checked_env(runtime_env, config)
        hook = tracing_hook
        if hook is None and target is not None and place is None:
            hook = _processes.tracing_hook(target["session_dir"])
        config["env"].pop(_TRACING_VARIABLE, None)
        if hook:
            from ray_rs import _tracing

            _tracing.set_up_here(hook)
            config["env"][_TRACING_VARIABLE] = hook
        config["env"].pop(LIFETIME_VARIABLE, None)
        if lifetime == "detached":
            config["env"][LIFETIME_VARIABLE] = lifetime
        if logging_config is not None:
            from ray_rs import _logging_config

            config["env"][_logging_config.VARIABLE] = logging_config._to_json()
            logging_config._apply()
        # One whose files are not copied yet: workers would have to be started again.
        known_config = config if env is None or "runtime_env" in config else None
        for_new_sessions = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "resources": resources,
            "labels": labels,
            "object_store_memory": object_store_memory,
            **hidden,
        }
        web = _processes.web_options(f"{dashboard_host}:0", dashboard_port) if include_dashboard else {}
        directory = for_new_sessions.pop("_temp_dir")
        if target is None:
            for_new_sessions.pop("_system_config")
            session = _start_in(directory, known_config, web, **for_new_sessions)
            # The first task will need them, and the processes just started take as long to come up.
            from ray_rs import _environments, _function_table, _serialization, remote_function  # noqa: F401
        else:
            given = [name for name, value in for_new_sessions.items() if value is not None]
            if given and place is not None:
                raise RuntimeError(f"Got unexpected kwargs: {', '.join(given)}")
            if given:
                raise ValueError(
                    f"When connecting to an existing cluster, {', '.join(given)} must not be provided. To start a new "
                    "one instead, pass address='local'."
                )
            _logs.info(f"Connecting to existing Ray cluster at address: {place or target['gcs_address']}...")
            session = target if place is None else _client.launch(place)
        started_here = target is None or place is not None
        if env is not None:
            _set_up(env, session, config, started_here=started_here)
        _connect(session, config, started_here=started_here, client_of=place)
        if env is not None:
            _give_files()
        if submitted.get("metadata"):
            from ray_rs import _jobs

            _jobs.note_driver(submitted["metadata"])
        _session["default_actor_lifetime"] = lifetime
        _logs.info("Started a local Ray instance." if target is None else "Connected to Ray cluster.")
        return _context()


def _target(address: str | None) -> dict[str, Any] | None:
    """The running session that is meant, or None to start one."""
    if address in (None, "auto"):
        named = os.environ.get("RAY_ADDRESS")
        if named:
            _logs.info(f"Using address {named} set in the environment variable RAY_ADDRESS")
            address = named
    if address == "local":
        return None
    if address is None:
        return _started_by_command()
    if not isinstance(address, str):
        raise TypeError(f"address must be None or a string, not {type(address).__name__}")
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"Invalid Ray address: {address!r}. It looks like the address of a web page. Pass that of the control "
            "store instead (<host>:<port>), or unset RAY_ADDRESS."
        )
    if address.startswith(_client.SCHEME):
        return {"client_of": _client.place_of(address)}
    if "://" in address:
        scheme = address.partition("://")[0]
        raise RuntimeError(f"Module: {scheme} does not exist.\nThis module was parsed from Address: {address}")
    if address != "auto" and not address.rpartition(":")[2].isdigit():
        raise ValueError(f"Invalid address format: {address}")
    import json

    found = _core.discover(address)
    if found is None:
        if address == "auto":
            raise ConnectionError(
                "Could not find any running Ray instance. Please specify the one to connect to by setting the address, "
                "or call ray_rs.init() without one to start it."
            )
        raise ConnectionError(
            f"Failed to connect to Ray cluster at {address}. Nothing of this user answers there; see whether the "
            "process that started it still runs. A program joins a cluster by a node on its own machine: if its head "
            f"is on another, start one here with `ray_rs start --address={address}`."
        )
    return json.loads(found)  # type: ignore[no-any-return]


def _started_by_command() -> dict[str, Any] | None:
    """The newest node of this machine that `ray_rs start` has started; sessions of other programs are theirs alone."""
    started = [session for session in _processes.living_sessions() if session["driver_pid"] is None]
    if not started:
        return None
    return started[-1]


def _start_in(directory: str | None, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Starts a session that lies in this directory; None: where RAY_RS_TMPDIR says, if it is set."""
    if directory is None:
        return _start(*arguments, **options)
    before = os.environ.get("RAY_RS_TMPDIR")
    os.environ["RAY_RS_TMPDIR"] = directory
    try:
        return _start(*arguments, **options)
    finally:
        if before is None:
            del os.environ["RAY_RS_TMPDIR"]
        else:
            os.environ["RAY_RS_TMPDIR"] = before


def _start(
    config: dict[str, Any] | None,
    web: dict[str, Any],
    num_cpus: int | None,
    num_gpus: int | None,
    resources: dict[str, float] | None,
    labels: dict[str, str] | None,
    object_store_memory: int | None,
    object_spilling_directory: str | None,
    _memory: float | None,
) -> dict[str, Any]:
    for name, count in (("CPU", num_cpus), ("GPU", num_gpus)):
        if count is None:
            continue
        if not isinstance(count, (int, float)):
            raise TypeError(f"num_{name.lower()}s must be a number, not {type(count).__name__}")
        if count < 0:
            raise ValueError(f"Resource quantities must be nonnegative. Violated by resource {name!r}: {count}")
        if count != int(count):
            raise ValueError(f"Resource quantities must all be whole numbers. Violated by resource {name!r}: {count}")
    _init_options.check_resources(resources)
    if object_store_memory is not None:
        _init_options.check_object_store_memory(object_store_memory)
    if labels:
        from ray_rs import _scheduling

        _scheduling.check_labels(labels)
    return _processes.launch_head(
        num_cpus=_processes.cpu_count() if num_cpus is None else int(num_cpus),
        num_gpus=_processes.gpu_count() if num_gpus is None else int(num_gpus),
        resources=resources or {},
        memory=None if _memory is None else int(_memory),
        object_store_memory=int(object_store_memory or _processes.object_store_bytes()),
        spill_directory=_init_options.spill_directory(object_spilling_directory),
        labels=labels or {},
        driver_config=config,
        **web,
    )


def _checked_env(given: dict[str, Any] | None, config: dict[str, Any]) -> dict[str, Any] | None:
    """The job's environment, checked, and told in `config` if that needs no session; None: there is none."""
    if not given:
        return None
    if not isinstance(given, dict):
        raise TypeError(f"runtime_env must be a dict or a RuntimeEnv, got {type(given)}")
    from ray_rs import _environments, runtime_env

    env = given if isinstance(given, runtime_env.RuntimeEnv) else runtime_env.RuntimeEnv(**given)
    if not _environments.needs_session(env):
        config["runtime_env"] = _environments.text_of(_environments.resolved(env, ""))
    return env


def _set_up(env: dict[str, Any], session: dict[str, Any], config: dict[str, Any], *, started_here: bool) -> None:
    """Copies and installs what the job's environment needs, so that what is wrong with it is told here."""
    from ray_rs import _env_install, _environments

    try:
        fields = _environments.resolved(env, session["session_dir"])
        config["runtime_env"] = _environments.text_of(fields)
        # Nothing runs on a client's node.
        eager = "client_of" not in session and fields.get("config", {}).get("eager_install", True)
        if "_venv" in fields and eager:
            _env_install.install(fields, session["session_dir"], config["sys_path"])
    except BaseException:
        if started_here:
            _core.stop_head(session["session_dir"])
        raise


def _give_files() -> None:
    """Gives the cluster what the job's environment takes from this machine's disk."""
    from ray_rs import _environments

    try:
        _environments.give_own()
    except BaseException:
        shutdown()
        raise


def _connect(
    session: dict[str, Any], config: dict[str, Any], *, started_here: bool, client_of: str | None = None
) -> None:
    import pickle

    try:
        if started_here:
            from ray_rs import _rehearsal

            _rehearsal.rehearse()
        _core.connect(session["session_dir"], driver_config=pickle.dumps(config, protocol=5), on_event=_logs.on_event)
    except BaseException as error:
        told = None
        if client_of is not None and isinstance(error, Exception):
            told = _client.explained(error, client_of, session["session_dir"])
        if started_here:
            _client.forget()
            _core.stop_head(session["session_dir"])
        if told is None:
            raise
        raise told from None
    _session.update(session, started_here=started_here, pid=os.getpid())
    if "runtime_env" in config or "ray_rs._environments" in sys.modules:
        from ray_rs import _environments

        _environments.set_own(config.get("runtime_env", ""))
    import atexit

    from ray_rs import _reloads

    _reloads.watch()
    _notebook.watch_cells()
    atexit.register(_at_exit)
    _processes.exit_on_sigterm()


def _address_info() -> dict[str, Any]:
    info = _core.process_info()
    directory = info["session_dir"]
    return {
        "node_ip_address": info["node_ip"],
        "redis_address": None,
        "object_store_address": f"{directory}/sockets/raylet",
        "raylet_socket_name": f"{directory}/sockets/raylet",
        "webui_url": _processes.web_address(directory),
        "session_dir": directory,
        "metrics_export_port": -1,
        "gcs_address": info["gcs_address"],
        "address": info["gcs_address"],
        "dashboard_agent_listen_port": -1,
        "node_id": info["node_id"].hex(),
    }


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Ends the session, and the processes that this one started. Does nothing when there is none.

    What workers have printed until now appears first. References and actor handles of the session are invalid
    afterwards; remote functions and actor classes serve the next session too.

    Args:
        wait_for_processes: Without effect: the processes have always ended when this returns.
        _exiting_interpreter: Called at the interpreter's end.
    """
    with _lock:
        if _session.get("pid") != os.getpid():  # none, or a child of a process that has one
            return
        session = dict(_session)
        _session.clear()
        if _core.is_initialized():
            if metrics := sys.modules.get("ray_rs._metrics"):
                metrics.flush()
            _ask_workers(f"{session['session_dir']}/sockets")
            _core.flush_logs()
        _core.disconnect()
        _core.set_tracing(False)
        _client.forget()
        _logs.flush()
        if session["started_here"]:
            _core.stop_head(session["session_dir"])
        _logs.forget()
        import atexit

        atexit.unregister(_at_exit)


def _ask_workers(sockets: str) -> None:
    """Lets workers send what they have gathered, if some do."""
    try:
        names = os.listdir(sockets)
    except FileNotFoundError:
        return
    # As `_goodbye._PREFIX`, whose module is imported only where somebody gathers something.
    if any(name.startswith("goodbye-") for name in names):
        from ray_rs import _goodbye

        _goodbye.ask_workers()


def _at_exit() -> None:
    shutdown(_exiting_interpreter=True)


def _auto_init() -> None:
    """Starts a session at the first use without one; called by the extension, and by what needs one in Python."""
    with _lock:
        if _core.is_initialized():
            return
        if os.environ.get("RAY_ENABLE_AUTO_CONNECT", "1") == "0":
            raise RaySystemError(_NOT_STARTED)
        init()


# ---------------------------------------------------------------------------------------------------------- decorators


def _remote(*args: Any, **options: Any) -> Any:
    """Makes a function run as tasks, or a class's instances live in processes of their own.

    Args:
        *args: The function or class, when used without parentheses.
        **options: See `ray_rs.options.OPTIONS`.

    Returns:
        A `RemoteFunction` or an `ActorClass`; a decorator when only options are given.

    Raises:
        AssertionError: Neither used as `@remote` nor as `@remote(option=...)`.
        TypeError: Not a function or class; an option of the wrong type.
        ValueError: A bad option.

    Example:
        >>> @ray.remote(num_cpus=2)
        ... def square(x):
        ...     return x * x
        >>> ray.get(square.remote(4))
        16
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make_remote(args[0], {})
    if args or not options:
        raise AssertionError(REMOTE_USAGE)
    return lambda target: _make_remote(target, options)


if not TYPE_CHECKING:
    remote = _remote
    remote.__name__ = remote.__qualname__ = "remote"


def _make_remote(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, type):
        from ray_rs.actor import make_actor_class

        return make_actor_class(target, options)
    if isinstance(target, types.FunctionType) or type(target).__name__ == "cython_function_or_method":
        from ray_rs.remote_function import make_remote

        return make_remote(target, options)
    raise TypeError("The @ray.remote decorator must be applied to either a function or a class.")


def _bind(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Describes a call of a remote function or of an actor's method, instead of making it; see `ray_rs.dag`."""
    from ray_rs import dag

    return dag.bind_call(self, args, kwargs)


def _signature(self: Any) -> Any:
    """The function's, for `inspect.signature` and `help`."""
    import inspect

    return inspect.signature(self._function)


def _on_ready(self: Any, callback: Callable[[Any], None]) -> Callable[[], None]:
    """Calls back when the value is there; what is returned calls that off."""
    wanted = [callback]

    def settled(_outcome: Any) -> None:
        for each in wanted[:]:
            each(self)

    self._on_completed(settled)
    return wanted.clear


async def _ready(self: Any) -> None:
    """Waits until `get` would not wait; whether there is a value or an error, nothing is raised."""
    import asyncio

    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    self._on_completed(lambda _outcome: loop.call_soon_threadsafe(settle))
    await ready


def _tensor_transport(self: Any) -> None:
    """Always None: tensors travel as other values do."""


_core.ObjectRef._on_ready, _core.ObjectRef._ready = _on_ready, _ready  # type: ignore[method-assign]
_core.ObjectRef.tensor_transport = _tensor_transport  # type: ignore[method-assign]


_core.ObjectRef._repr_html_ = _notebook.ref_as_html  # type: ignore[method-assign]
_core.ActorHandle._repr_html_ = _notebook.handle_as_html  # type: ignore[method-assign]
# These classes are native; graphs of calls are not, nor is what few programs ask for.
_core.RemoteFunction.bind = _core.ActorMethod.bind = _bind  # type: ignore[method-assign]
_core.RemoteFunction.__signature__ = property(_signature)  # type: ignore[method-assign, assignment]


# ------------------------------------------------------------------------------------------------------------- lookups


def get_actor(name: str, namespace: str | None = None) -> _core.ActorHandle[Any]:
    """Looks a named actor up.

    Args:
        name: Its name.
        namespace: Its namespace; this job's when None.

    Returns:
        A handle, which does not keep the actor alive.

    Raises:
        TypeError: A name that is not a string.
        ValueError: There is no such actor, or an empty name.
    """
    if not name:
        raise ValueError("Please supply a non-empty value to get_actor")
    if not isinstance(name, str):
        raise TypeError(f"The name of an actor must be a string, not {type(name).__name__}")
    check_namespace(namespace)
    if not _core.is_initialized():
        _auto_init()
    handle = _core.get_actor_handle(name, namespace or _core.process_info()["namespace"])
    if handle is None:
        raise ValueError(
            f"Failed to look up actor with name '{name}'. This could because 1. You are trying to look up a named "
            "actor you didn't create. 2. The named actor died. 3. You did not use a namespace matching the namespace "
            "of the actor."
        )
    return handle


def _require_session() -> None:
    if not _core.is_initialized():
        raise RaySystemError("Ray has not been started yet. Trying to use state API before ray.init() has been called.")


def nodes() -> list[dict[str, Any]]:
    """Describes the nodes of the cluster.

    Returns:
        A dictionary for each, with Ray's keys. One that is about to leave has a further one, "Draining", with "reason"
        (1: it is idle; 2: preemption), "message" and "deadline_ms" (since 1970; 0: when what it runs has ended).

    Raises:
        RaySystemError: There is no session.
    """
    _require_session()
    directory = _core.process_info()["session_dir"]
    return [
        {
            "NodeID": node["node_id"],
            "Alive": node["alive"],
            "NodeManagerAddress": node["address"],
            "NodeManagerHostname": node["hostname"],
            "NodeManagerPort": -1,
            "ObjectManagerPort": -1,
            "ObjectStoreSocketName": f"{directory}/sockets/raylet",
            "RayletSocketName": f"{directory}/sockets/raylet",
            "MetricsExportPort": -1,
            "MetricsAgentPort": -1,
            "DashboardAgentListenPort": -1,
            "NodeName": node["address"],
            "RuntimeEnvAgentPort": -1,
            "DeathReason": _death_reason(node),
            "DeathReasonMessage": node["death_reason"],
            "alive": node["alive"],
            "Resources": dict(node["total"]) if node["alive"] else {},
            "Labels": {"ray.io/node-id": node["node_id"], **node.get("labels", {})},
            **({"Draining": node["drain"]} if node["alive"] and node["drain"] else {}),
        }
        for node in _core.cluster_view()
    ]


def _death_reason(node: dict[str, Any]) -> int:
    """By Ray's numbers: 0 it lives; 1 expected, 2 not; 3 drained for a preemption, 4 for being idle."""
    if node["alive"]:
        return 0
    if node["drain"]:
        return 4 if node["drain"]["reason"] == 1 else 3
    return 1 if node["death_reason"] == "it was stopped" else 2


def _sum_resources(which: str) -> dict[str, float]:
    _require_session()
    total: dict[str, float] = {}
    for node in _core.cluster_view():
        if node["alive"]:
            for name, amount in node[which].items():
                total[name] = total.get(name, 0.0) + amount
    return {name: amount for name, amount in total.items() if amount}


def cluster_resources() -> dict[str, float]:
    """Resources of all living nodes together.

    Returns:
        Amount by name.

    Raises:
        RaySystemError: There is no session.
    """
    return _sum_resources("total")


def available_resources() -> dict[str, float]:
    """Resources that nothing holds at the moment; soon out of date.

    Returns:
        Amount by name, without those that are used up.

    Raises:
        RaySystemError: There is no session.
    """
    return _sum_resources("available")


def get_gpu_ids() -> list[Any]:
    """GPUs that this task or actor may use.

    Returns:
        Their ids: numbers, or strings when CUDA_VISIBLE_DEVICES was set at the start. Empty in a driver.
    """
    from ray_rs.runtime_context import _context

    return _context._gpu_ids()
