"""Submitted jobs, on the cluster's side.

A job is a record in the control store and, while its command runs, a supervisor: a detached actor in the job's runtime
environment, on the head node unless the command holds resources. The supervisor is the one that writes the record once
it runs; before and after, whoever looks at the record sees whether there is a supervisor, and says so in it. So a job
needs neither its submitter nor the web service, and survives a restart of the control store.
"""

from __future__ import annotations

import json
import os
import secrets
import string
import threading
import time
from typing import Any

from ray_rs import _core
from ray_rs.job_submission._types import DriverInfo, JobDetails, JobErrorType, JobInfo, JobStatus, JobType

__all__ = ["JobError", "JobStore", "Supervisor", "delete", "note_driver", "printed", "records", "stop", "submit"]

# Names that Ray uses as well.
_RECORDS = "job"
_INFO_KEY = "_ray_internal_job_info_"
_DRIVER_KEY = "_ray_internal_job_driver_"
_NAMESPACE = "SUPERVISOR_ACTOR_RAY_NAMESPACE"
_ACTOR_NAME = "_ray_internal_job_actor_{}"
CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
SUBMISSION_KEY = "job_submission_id"

_START_LIMIT_VARIABLE = "RAY_JOB_START_TIMEOUT_SECONDS"
_START_LIMIT_S = 900.0
_STOP_LIMIT_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
_STOP_LIMIT_S = 3.0
_STOP_SIGNAL_VARIABLE = "RAY_JOB_STOP_SIGNAL"
# So much of a failed command's output is told with its status.
_LAST_CHARACTERS = 20_000
_LAST_LINES = 10
# Of a worker, and not of what it starts. The mark by which a raylet finds what its workers have started stays.
_OF_WORKERS = (
    "RAY_RS_RUNTIME_ENV",
    "RAY_RS_LOGGING_CONFIG",
    "RAY_RS_DEFAULT_ACTOR_LIFETIME",
    "RAY_RS_TRACING_STARTUP_HOOK",
)


class JobError(Exception):
    """What was asked can't be done.

    Args:
        status: Of HTTP.
        text: For people.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _now_ms() -> int:
    return int(time.time() * 1000)


def _seconds(variable: str, default: float) -> float:
    try:
        return float(os.environ[variable])
    except (KeyError, ValueError):
        return default


# -------------------------------------------------------------------------------------------------------------- records


class JobStore:
    """Records of jobs, in the control store."""

    def load(self, job: str) -> JobInfo | None:
        """The record as it was written last.

        Args:
            job: Its submission id.

        Returns:
            None when there is none.
        """
        text = _core.kv_get(_RECORDS, (_INFO_KEY + job).encode())
        return None if text is None else JobInfo.from_json(text)

    def save(self, job: str, info: JobInfo, *, is_new: bool = False) -> bool:
        """Writes the record.

        Args:
            job: Its submission id.
            info: The record.
            is_new: Only if there is none.

        Returns:
            Whether it was written.
        """
        key = (_INFO_KEY + job).encode()
        was_new = _core.kv_put(_RECORDS, key, info.to_json().encode(), not is_new)
        return was_new or not is_new

    def forget(self, job: str) -> None:
        """Removes what is known of a job.

        Args:
            job: Its submission id.
        """
        for key in (_INFO_KEY, _DRIVER_KEY):
            _core.kv_del(_RECORDS, (key + job).encode())

    def jobs(self) -> list[str]:
        """Submission ids of all jobs."""
        keys = _core.kv_keys(_RECORDS, _INFO_KEY.encode())
        return [key.decode().removeprefix(_INFO_KEY) for key in keys]

    def look(self, job: str) -> JobInfo:
        """The record as it is now: a job whose supervisor is gone has failed.

        Args:
            job: Its submission id.

        Returns:
            The record.

        Raises:
            JobError: There is none.
        """
        info = self.load(job)
        if info is not None and not info.status.is_terminal() and not _is_supervised(job):
            # Its last act is to write the record.
            info = self.load(job)
            if info is not None and not info.status.is_terminal():
                self._bury(job, info)
        elif info is not None and info.status is JobStatus.PENDING and _is_late(info):
            _end_supervisor(job)
            _fail_late(info)
            self.save(job, info)
        if info is None:
            raise JobError(404, f"Job {job} does not exist")
        return info

    def _bury(self, job: str, info: JobInfo) -> None:
        cause = _cause_of_death(job)
        started = info.status is JobStatus.RUNNING
        info.status = JobStatus.FAILED
        info.end_time = _now_ms()
        if "RuntimeEnvSetupError" in cause or "runtime environment" in cause.lower():
            info.error_type = JobErrorType.RUNTIME_ENV_SETUP_FAILURE
            info.message = f"runtime_env setup failed: {cause}"
        elif started:
            info.error_type = JobErrorType.JOB_SUPERVISOR_ACTOR_DIED
            info.message = f"Job supervisor actor died while the job ran: {cause}"
        else:
            info.error_type = JobErrorType.JOB_SUPERVISOR_ACTOR_START_FAILURE
            info.message = f"Job supervisor actor could not be started: {cause}"
        self.save(job, info)

    def details(self, job: str) -> JobDetails:
        """All that is known of a submitted job.

        Args:
            job: Its submission id.

        Returns:
            Its details.

        Raises:
            JobError: There is none.
        """
        info = self.look(job)
        driver = _core.kv_get(_RECORDS, (_DRIVER_KEY + job).encode())
        driver_info = None if driver is None else DriverInfo(**json.loads(driver))
        return JobDetails(
            type=JobType.SUBMISSION,
            status=info.status,
            entrypoint=info.entrypoint,
            job_id=None if driver_info is None else driver_info.id,
            submission_id=job,
            driver_info=driver_info,
            message=info.message,
            error_type=None if info.error_type is None else info.error_type.value,
            start_time=info.start_time,
            end_time=info.end_time,
            metadata=info.metadata,
            runtime_env=info.runtime_env,
            driver_agent_http_address=info.driver_agent_http_address,
            driver_node_id=info.driver_node_id,
            driver_exit_code=info.driver_exit_code,
        )


def records(observer: Any) -> dict[str, tuple[JobInfo, dict[str, str] | None]]:
    """Submitted jobs as they were written last, for who is no driver himself.

    Args:
        observer: A `_core.Observer`.

    Returns:
        By submission id the record, and what is known of the driver.
    """
    drivers = dict(observer.kv_entries(_RECORDS, _DRIVER_KEY.encode()))
    found = {}
    for key, text in observer.kv_entries(_RECORDS, _INFO_KEY.encode()):
        job = key.decode().removeprefix(_INFO_KEY)
        driver = drivers.get((_DRIVER_KEY + job).encode())
        found[job] = (JobInfo.from_json(text), None if driver is None else json.loads(driver))
    return found


def note_driver(metadata: dict[str, str]) -> None:
    """Called by a driver that a submitted job has started: tells the job which it is.

    Args:
        metadata: Of its job's configuration.
    """
    job = metadata.get(SUBMISSION_KEY)
    if job:
        info = _core.process_info()
        said = {"id": info["job_id"].hex(), "node_ip_address": info["node_ip"], "pid": str(os.getpid())}
        _core.kv_put(_RECORDS, (_DRIVER_KEY + job).encode(), json.dumps(said).encode())


def _supervisor(job: str) -> Any:
    """The handle; None when there is none that lives."""
    import ray_rs

    try:
        return ray_rs.get_actor(_ACTOR_NAME.format(job), namespace=_NAMESPACE)
    except ValueError:
        return None


def _is_supervised(job: str) -> bool:
    return _supervisor(job) is not None


def _end_supervisor(job: str) -> None:
    import ray_rs

    handle = _supervisor(job)
    if handle is not None:
        ray_rs.kill(handle)


def _cause_of_death(job: str) -> str:
    from ray_rs.util.state import list_actors

    rows = list_actors(filters=[("name", "=", _ACTOR_NAME.format(job))], detail=True, limit=10)
    for row in rows:
        if row.death_cause:
            return json.dumps(row.death_cause)
    return "nothing more is known of it."


def _is_late(info: JobInfo) -> bool:
    return _now_ms() - (info.start_time or 0) > 1000 * _seconds(_START_LIMIT_VARIABLE, _START_LIMIT_S)


def _fail_late(info: JobInfo) -> None:
    limit = _seconds(_START_LIMIT_VARIABLE, _START_LIMIT_S)
    info.status, info.end_time = JobStatus.FAILED, _now_ms()
    info.error_type = JobErrorType.JOB_SUPERVISOR_ACTOR_START_TIMEOUT
    info.message = (
        f"Job supervisor actor failed to start within {limit:g} seconds. The cluster may lack the resources that the "
        f"entrypoint asks for; {_START_LIMIT_VARIABLE} of the head's environment sets the limit."
    )


# ----------------------------------------------------------------------------------------------------------- submission


def new_submission_id() -> str:
    """As Ray's: letters and digits that are not taken for one another."""
    letters = "".join(set(string.ascii_letters + string.digits) - set("oOiIlL01"))
    return "raysubmit_" + "".join(secrets.choice(letters) for _ in range(16))


def submit(
    entrypoint: str,
    submission_id: str | None,
    runtime_env: dict[str, Any],
    resolved_env: dict[str, Any],
    metadata: dict[str, str],
    resources: dict[str, Any],
    label_selector: dict[str, str] | None,
) -> str:
    """Writes a job's record and starts its supervisor.

    Args:
        entrypoint: The shell's command.
        submission_id: None: a new one.
        runtime_env: As it is shown.
        resolved_env: The same with packages that this node has, for the supervisor.
        metadata: Strings by name.
        resources: `num_cpus`, `num_gpus`, `memory` and `resources`, as of an actor; None for what is not held.
        label_selector: Labels of the node that it runs on.

    Returns:
        The submission id.

    Raises:
        JobError: It is taken, or the runtime environment can't be.
    """
    import ray_rs
    from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    store, job = JobStore(), submission_id or new_submission_id()
    info = JobInfo(
        status=JobStatus.PENDING,
        entrypoint=entrypoint,
        start_time=_now_ms(),
        metadata=metadata,
        runtime_env=runtime_env,
        entrypoint_num_cpus=resources["num_cpus"],
        entrypoint_num_gpus=resources["num_gpus"],
        entrypoint_memory=resources["memory"],
        entrypoint_resources=resources["resources"],
    )
    if not store.save(job, info, is_new=True):
        raise JobError(400, f"Job with submission_id {job} already exists. Please use a different submission_id.")
    held = {name: value for name, value in resources.items() if value}
    options: dict[str, Any] = {"num_cpus": 0, **held, "runtime_env": resolved_env or None}
    if label_selector:
        options["label_selector"] = label_selector
    elif not held:
        # Its own machine's node is the head's.
        node = ray_rs.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    try:
        ray_rs.remote(Supervisor).options(
            name=_ACTOR_NAME.format(job), namespace=_NAMESPACE, lifetime="detached", **options
        ).remote(job, entrypoint, metadata, os.environ.get("OMP_NUM_THREADS"))
    except Exception as error:
        store.forget(job)
        raise JobError(400, f"The job can't be submitted: {type(error).__name__}: {error}") from error
    return job


def stop(job: str) -> bool:
    """Ends a job's command.

    Args:
        job: Its submission id.

    Returns:
        Whether it had not ended already.

    Raises:
        JobError: There is no such job.
    """
    store = JobStore()
    info = store.look(job)
    if info.status.is_terminal():
        return False
    if info.status is JobStatus.PENDING:
        _end_supervisor(job)
        # It may have begun at that moment, and its command has ended with it.
        info.status, info.end_time, info.message = JobStatus.STOPPED, _now_ms(), None
        info.__post_init__()
        store.save(job, info)
        return True
    handle = _supervisor(job)
    if handle is None:
        return False
    handle.stop.remote()
    return True


def delete(job: str) -> bool:
    """Forgets a job that has ended, and its log.

    Args:
        job: Its submission id.

    Returns:
        True.

    Raises:
        JobError: There is no such job, or it has not ended.
    """
    store = JobStore()
    info = store.look(job)
    if not info.status.is_terminal():
        raise JobError(400, f"Attempted to delete job '{job}', but it is in a non-terminal state {info.status}.")
    if info._log_path and os.path.exists(info._log_path):
        os.unlink(info._log_path)
    store.forget(job)
    return True


def printed(job: str, offset: int) -> tuple[bytes, bool]:
    """What a job's command has printed.

    Args:
        job: Its submission id.
        offset: From this byte on.

    Returns:
        Some of it, and whether the job has ended and this is the last of it.

    Raises:
        JobError: There is no such job.
    """
    # The status first: what has ended prints no more.
    info = JobStore().look(job)
    if info._log_path is None:
        return b"", info.status.is_terminal()
    data = _read(info._log_path, offset) if os.path.exists(info._log_path) else _read_there(info, offset)
    return data, info.status.is_terminal() and len(data) < _PIECE_BYTES


_PIECE_BYTES = 4 << 20


def _read(path: str, offset: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(_PIECE_BYTES)
    except FileNotFoundError:
        return b""


def _read_there(info: JobInfo, offset: int) -> bytes:
    """From the disk of the node that the command ran on."""
    import ray_rs
    from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    path = info._log_path
    assert path is not None
    assert info.driver_node_id is not None
    there = NodeAffinitySchedulingStrategy(node_id=info.driver_node_id, soft=False)
    read = ray_rs.remote(_read).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        return bytes(ray_rs.get(read.remote(path, offset), timeout=30))
    except Exception as error:
        raise JobError(503, f"The node with the job's log can't be asked: {error}") from error


# ----------------------------------------------------------------------------------------------------------- supervisor


class Supervisor:
    """Runs a job's command, and ends when that has ended. An actor; its thread needs no caller.

    Args:
        job: The submission id.
        entrypoint: The shell's command.
        metadata: Strings by name, for the command's driver.
        omp_num_threads: What the cluster's environment says; workers have a value of their own.
    """

    def __init__(self, job: str, entrypoint: str, metadata: dict[str, str], omp_num_threads: str | None) -> None:
        self._job = job
        self._entrypoint = entrypoint
        self._metadata = metadata
        self._omp_num_threads = omp_num_threads
        self._process: Any = None
        self._is_stopped = False
        self._lock = threading.Lock()
        threading.Thread(target=self._supervise, name="ray_rs job", daemon=True).start()

    def ping(self) -> None:
        """Answers."""

    def stop(self) -> None:
        """Asks the command to end, and ends it when it does not."""
        with self._lock:
            self._is_stopped = True
            process = self._process
        if process is not None:
            threading.Thread(target=_end, args=(process,), name="ray_rs job end", daemon=True).start()

    def _supervise(self) -> None:
        import ray_rs

        store = JobStore()
        info = store.load(self._job)
        try:
            if info is not None and info.status is JobStatus.PENDING:
                self._run(store, info)
        except Exception as error:
            assert info is not None
            info.status, info.end_time = JobStatus.FAILED, _now_ms()
            info.error_type = JobErrorType.JOB_ENTRYPOINT_COMMAND_START_ERROR
            info.message = f"The entrypoint could not be run: {type(error).__name__}: {error}"
            store.save(self._job, info)
        finally:
            ray_rs.kill(ray_rs.get_actor(_ACTOR_NAME.format(self._job), namespace=_NAMESPACE))

    def _run(self, store: JobStore, info: JobInfo) -> None:
        import subprocess

        if _is_late(info):
            _fail_late(info)
            store.save(self._job, info)
            return
        process_info = _core.process_info()
        path = os.path.join(process_info["session_dir"], "logs", f"job-driver-{self._job}.log")
        info.status, info.message = JobStatus.RUNNING, None
        info.__post_init__()
        info.driver_node_id = process_info["node_id"].hex()
        info._log_path = path
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            log.write(f"Running entrypoint for job {self._job}: {self._entrypoint}\n".encode())
            log.flush()
            with self._lock:
                if not self._is_stopped:
                    self._process = subprocess.Popen(
                        self._entrypoint,
                        shell=True,
                        start_new_session=True,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=self._environment(process_info),
                    )
        store.save(self._job, info)
        code = None
        if self._process is not None:
            with _Guard(self._process.pid):
                code = self._process.wait()
                _kill_group(self._process.pid)
        info.end_time, info.driver_exit_code, info.message = _now_ms(), code, None
        if self._is_stopped:
            info.status = JobStatus.STOPPED
        elif code == 0:
            info.status = JobStatus.SUCCEEDED
        else:
            info.status, info.error_type = JobStatus.FAILED, JobErrorType.JOB_ENTRYPOINT_COMMAND_ERROR
            info.message = _last_words(path, code)
        info.__post_init__()
        store.save(self._job, info)

    def _environment(self, process_info: dict[str, Any]) -> dict[str, str]:
        import sys

        from ray_rs import _env_store, _environments

        environment = {name: value for name, value in os.environ.items() if name not in _OF_WORKERS}
        environment.pop("OMP_NUM_THREADS", None)
        if self._omp_num_threads is not None:
            environment["OMP_NUM_THREADS"] = self._omp_num_threads
        fields = _environments.own_fields()
        config = {"runtime_env": fields, "metadata": {**self._metadata, SUBMISSION_KEY: self._job}}
        environment[CONFIG_VARIABLE] = json.dumps(config)
        environment["RAY_ADDRESS"] = process_info["gcs_address"]
        environment["PYTHONUNBUFFERED"] = "1"
        # `python` is the Python of this environment.
        environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment.get("PATH", os.defpath)
        store = _env_store.store_of(process_info["session_dir"])
        modules = [_env_store.local(module, store) for module in fields.get("py_modules", [])]
        if modules:
            known = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join([*modules, known] if known else modules)
        return environment


class _Guard:
    """Ends a process group if this process dies before the guard is told that all is well.

    A raylet does so as well, unless `RAY_kill_child_processes_on_worker_exit` says that it leaves such alone.

    Args:
        group: Its number.
    """

    _SCRIPT = 'read -r _ || kill -s KILL -- "-$1"'

    def __init__(self, group: int) -> None:
        import subprocess

        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT, "sh", str(group)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> None:
        """Nothing more to do."""

    def __exit__(self, *exc_info: object) -> None:
        self._shell.communicate(b"well\n")


def _end(process: Any) -> None:
    """Asks a process group to end, and ends what remains of it after a time."""
    import signal
    import subprocess

    name = os.environ.get(_STOP_SIGNAL_VARIABLE, "SIGTERM")
    number = getattr(signal, name, signal.SIGTERM)
    try:
        os.killpg(process.pid, number)
        process.wait(_seconds(_STOP_LIMIT_VARIABLE, _STOP_LIMIT_S))
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        pass
    _kill_group(process.pid)


def _kill_group(pid: int) -> None:
    import contextlib
    import signal

    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _last_words(path: str, code: int | None) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4 * _LAST_CHARACTERS))
        lines = file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
    said = "\n".join(lines)[-_LAST_CHARACTERS:]
    return (
        f"Job entrypoint command failed with exit code {code}, "
        f"last available logs (truncated to {_LAST_CHARACTERS:,} chars):\n{said}"
    )
