"""What the web service answers: `rust/web` has the routes, and lets in who may come.

The process is started by the control store when somebody connects, and is a driver of a job of its own, whose namespace
says that it is not a user's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["JOBS_VERSION", "NAMESPACE", "main"]

NAMESPACE = "_ray_internal_dashboard"
# Of Ray's jobs interface; its clients compare.
JOBS_VERSION = "4"

_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"
_Said = tuple[int, str, bytes]
_MAX_BAD_REQUEST, _UNAVAILABLE = 400, 503

# What asks the session waits until this process is part of it; it ends when that fails.
_connected = threading.Event()
_CONNECT_LIMIT_S = 60


def main(session_dir: str) -> None:
    """Serves on the socket that is standard input, until nobody has been connected for a while.

    Args:
        session_dir: The session that it belongs to.
    """
    import signal

    import ray_rs
    from ray_rs import _core

    address = _own_address(session_dir)
    page_dir = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_page_files")
    # As a daemon: threads of the interpreter that still answer somebody don't keep the process.
    server = threading.Thread(target=_core.serve_web, args=(session_dir, page_dir, answer, printed), daemon=True)
    server.start()
    # The page's files are sent meanwhile.
    ray_rs.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="critical")
    # The driver's own handler waits for the interpreter, which waits for the service.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _connected.set()
    server.join()
    ray_rs.shutdown()


def _own_address(session_dir: str) -> str:
    with open(os.path.join(session_dir, "gcs_address")) as file:
        return file.read().strip()


def answer(operation: str, arguments: str) -> _Said:
    """Answers a request.

    Args:
        operation: A name of the table in `rust/web/src/routes.rs`.
        arguments: A JSON object.

    Returns:
        Status, type of the content, content.
    """
    if not _connected.wait(_CONNECT_LIMIT_S):
        return _UNAVAILABLE, _TEXT, b"The service has not been let into the session yet."
    from ray_rs._jobs import JobError
    from ray_rs._stacks import StackError
    from ray_rs.util.state.exception import RayStateApiException

    try:
        return _OPERATIONS[operation](json.loads(arguments))
    except JobError as error:
        return error.status, _TEXT, str(error).encode()
    except StackError as error:
        return _UNAVAILABLE, _TEXT, str(error).encode()
    except (RayStateApiException, ValueError, TypeError) as error:
        return _MAX_BAD_REQUEST, _TEXT, str(error).encode()


def printed(job: str, offset: int) -> tuple[int, bytes, bool]:
    """What a job has printed, for those who follow it.

    Args:
        job: Its submission id, or that of its driver's job.
        offset: From this byte on.

    Returns:
        Status, content, and whether that is all there will be.
    """
    from ray_rs import _jobs

    if not _connected.wait(_CONNECT_LIMIT_S):
        return _UNAVAILABLE, b"The service has not been let into the session yet.", True
    try:
        return 200, *_jobs.printed(_submission_of(job), offset)
    except _jobs.JobError as error:
        return error.status, str(error).encode(), True


def _json(value: Any, status: int = 200) -> _Said:
    return status, _JSON, json.dumps(value, default=str).encode()


# ---------------------------------------------------------------------------------------------------------------- jobs


def _version(_: dict[str, Any]) -> _Said:
    from ray_rs import __version__, _as_ray, _core

    session = os.path.basename(_core.process_info()["session_dir"])
    return _json(
        {
            "version": JOBS_VERSION,
            "ray_version": _as_ray.RAY_VERSION,
            "ray_commit": f"ray_rs {__version__}",
            "session_name": session,
        }
    )


_FIELDS: dict[str, tuple[type, ...]] = {
    "entrypoint": (str,),
    "submission_id": (str,),
    "job_id": (str,),
    "runtime_env": (dict,),
    "metadata": (dict,),
    "entrypoint_num_cpus": (int, float),
    "entrypoint_num_gpus": (int, float),
    "entrypoint_memory": (int,),
    "entrypoint_resources": (dict,),
    "entrypoint_label_selector": (dict,),
}


def _submit_job(job: dict[str, Any]) -> _Said:
    from ray_rs import _jobs

    for name, value in job.items():
        if name not in _FIELDS:
            raise ValueError(f"{name!r} is no field of a job. Fields: {', '.join(_FIELDS)}.")
        if value is not None and (not isinstance(value, _FIELDS[name]) or isinstance(value, bool)):
            raise TypeError(f"{name} must be {_FIELDS[name][0].__name__}, not {type(value).__name__}: {value!r}")
    entrypoint = job.get("entrypoint")
    if not entrypoint or not entrypoint.strip():
        raise ValueError("entrypoint must be a command")
    submission_id = job.get("submission_id") or job.get("job_id")
    if submission_id is not None and not _is_name(submission_id):
        raise ValueError(f"submission_id must consist of letters, digits, '-', '_' and '.': {submission_id!r}")
    metadata = job.get("metadata") or {}
    if any(not isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata must be a dictionary of strings")
    runtime_env = job.get("runtime_env") or {}
    resources = {
        "num_cpus": job.get("entrypoint_num_cpus"),
        "num_gpus": job.get("entrypoint_num_gpus"),
        "memory": job.get("entrypoint_memory"),
        "resources": job.get("entrypoint_resources"),
    }
    name = _jobs.submit(
        entrypoint,
        submission_id,
        runtime_env,
        _with_packages(runtime_env),
        metadata,
        resources,
        job.get("entrypoint_label_selector"),
    )
    return _json({"job_id": name, "submission_id": name})


def _is_name(text: str) -> bool:
    # It becomes the name of a file and of an actor.
    return 0 < len(text) <= 200 and all(c.isascii() and (c.isalnum() or c in "-_.") for c in text) and text[0] != "."


def _with_packages(runtime_env: dict[str, Any]) -> dict[str, Any]:
    """The environment with what was uploaded in the place of its name."""
    from ray_rs import _env_packages

    return _env_packages.with_packages(runtime_env)


def _list_jobs(_: dict[str, Any]) -> _Said:
    from ray_rs._jobs import JobStore

    store = JobStore()
    submitted = [store.details(job) for job in store.jobs()]
    drivers = {each.job_id for each in submitted}
    rows = [dataclasses.asdict(each) for each in submitted]
    rows += [_of_driver(row) for row in _driver_rows() if row.job_id not in drivers]
    return _json(rows)


def _driver_rows() -> list[Any]:
    from ray_rs.util.state import list_jobs

    rows = list_jobs(limit=10_000, detail=True, raise_on_missing_output=False)
    return [row for row in rows if row.type == "DRIVER"]


def _of_driver(row: Any) -> dict[str, Any]:
    from ray_rs.job_submission._types import DriverInfo, JobDetails, JobStatus, JobType

    driver = row.driver_info
    details = JobDetails(
        type=JobType.DRIVER,
        status=JobStatus(row.status),
        entrypoint=row.entrypoint,
        job_id=row.job_id,
        driver_info=DriverInfo(driver["id"], driver.get("node_ip_address", ""), str(driver["pid"])),
        start_time=row.start_time,
        end_time=row.end_time,
        metadata={},
        runtime_env={},
        driver_node_id=driver["node_id"],
    )
    return dataclasses.asdict(details)


def _submission_of(job: str) -> str:
    """A job may be named by the id of its driver's job as well."""
    from ray_rs._jobs import JobStore

    store = JobStore()
    if store.load(job) is None:
        for submitted in store.jobs():
            if store.details(submitted).job_id == job:
                return submitted
    return job


def _get_job(arguments: dict[str, Any]) -> _Said:
    from ray_rs._jobs import JobError, JobStore

    name = arguments["id"]
    try:
        return _json(dataclasses.asdict(JobStore().details(_submission_of(name))))
    except JobError:
        for row in _driver_rows():
            if row.job_id == name:
                return _json(_of_driver(row))
        raise


def _delete_job(arguments: dict[str, Any]) -> _Said:
    from ray_rs import _jobs

    return _json({"deleted": _jobs.delete(_submission_of(arguments["id"]))})


def _stop_job(arguments: dict[str, Any]) -> _Said:
    from ray_rs import _jobs

    return _json({"stopped": _jobs.stop(_submission_of(arguments["id"]))})


def _job_logs(arguments: dict[str, Any]) -> _Said:
    from ray_rs import _jobs

    job = _submission_of(arguments["id"])
    pieces: list[bytes] = []
    offset = 0
    while True:
        piece, _ = _jobs.printed(job, offset)
        pieces.append(piece)
        offset += len(piece)
        if not piece:
            break
    return _json({"logs": b"".join(pieces).decode(errors="replace")})


# --------------------------------------------------------------------------------------------------------------- state


def _pairs(query: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=100):
        found.setdefault(name, []).append(value)
    return found


def _listing(result: Any, message: str = "") -> _Said:
    return _json({"result": True, "msg": message, "data": {"result": result}})


def _list_state(arguments: dict[str, Any]) -> _Said:
    from ray_rs.util.state import api, list_logs
    from ray_rs.util.state._rows import KINDS

    query = _pairs(arguments["query"])
    kind = arguments["kind"].replace("_", "-")
    last = {name: values[-1] for name, values in query.items()}
    if kind == "logs":
        found = list_logs(node_id=last.get("node_id"), node_ip=last.get("node_ip"), glob_filter=last.get("glob"))
        return _listing(found)
    if kind not in KINDS:
        return 404, _TEXT, f"There are no {kind!r}; there are {', '.join(sorted(KINDS))}.".encode()
    keys, predicates, values = (query.get(f"filter_{part}", []) for part in ("keys", "predicates", "values"))
    if not len(keys) == len(predicates) == len(values):
        raise ValueError("There must be as many filter_keys as filter_predicates and filter_values.")
    limit = int(last.get("limit", 100))
    filters = list(zip(keys, predicates, values, strict=True))
    detail = last.get("detail", "").lower() in ("1", "true")
    rows, total, warning = api.list_rows(kind, None, filters, limit, float(last.get("timeout", 30)), detail)
    return _listing(
        {
            "total": total,
            "num_after_truncation": total,
            "num_filtered": total,
            "result": [row.asdict() for row in rows],
            "partial_failure_warning": warning,
            "warnings": None,
        }
    )


def _summarize_state(arguments: dict[str, Any]) -> _Said:
    from ray_rs.util import state

    kind = arguments["kind"]
    summaries: dict[str, Callable[[], Any]] = {
        "tasks": state.summarize_tasks,
        "actors": state.summarize_actors,
        "objects": state.summarize_objects,
    }
    if kind not in summaries:
        return 404, _TEXT, f"There is no summary of {kind!r}; there are {', '.join(summaries)}.".encode()
    summary = summaries[kind]()
    return _listing(
        {"total": 1, "num_after_truncation": 1, "num_filtered": 1, "result": {"node_id_to_summary": summary}}
    )


def _timeline(_: dict[str, Any]) -> _Said:
    from ray_rs import _timeline

    return 200, _JSON, "".join(_timeline.text_of(None)).encode()


def _metrics(_: dict[str, Any]) -> _Said:
    from ray_rs import _prometheus

    return 200, "text/plain; version=0.0.4; charset=utf-8", _prometheus.text_of(None).encode()


def _cluster_status(_: dict[str, Any]) -> _Said:
    import ray_rs
    from ray_rs.scripts._status import text_of

    usage = {"total": ray_rs.cluster_resources(), "available": ray_rs.available_resources()}
    data = {"autoscalingStatus": text_of(None), "clusterStatus": {"loadMetricsReport": usage}}
    return _json({"result": True, "msg": "Got cluster status.", "data": data})


def _nodes(arguments: dict[str, Any]) -> _Said:
    from ray_rs.util.state import list_nodes

    rows = [row.asdict() for row in list_nodes(limit=10_000, detail=True)]
    return _json({"result": True, "msg": "Node summary fetched.", "data": {"summary": rows}})


def _node(arguments: dict[str, Any]) -> _Said:
    from ray_rs.util.state import get_node

    row = get_node(arguments["id"])
    if row is None:
        return 404, _TEXT, f"Node {arguments['id']} does not exist".encode()
    return _json({"result": True, "msg": "Node details fetched.", "data": {"detail": row.asdict()}})


def _actors(_: dict[str, Any]) -> _Said:
    from ray_rs.util.state import list_actors

    rows = {row.actor_id: row.asdict() for row in list_actors(limit=10_000, detail=True)}
    return _json({"result": True, "msg": "All actors fetched.", "data": {"actors": rows}})


def _health(_: dict[str, Any]) -> _Said:
    from ray_rs.util.state import list_nodes

    list_nodes(limit=1)
    return 200, _TEXT, b"success"


# ---------------------------------------------------------------------------------------------------------------- page


def _look(arguments: dict[str, Any]) -> _Said:
    from ray_rs import _page

    return _json(_page.look(arguments["section"]))


def _page_part(arguments: dict[str, Any]) -> _Said:
    from ray_rs import _page

    return 200, _JSON, _page.part(arguments["part"], arguments["query"]).encode()


def _stack(arguments: dict[str, Any]) -> _Said:
    from ray_rs import _page

    return 200, _TEXT, _page.stack(arguments).encode()


def _flame(arguments: dict[str, Any]) -> _Said:
    from ray_rs import _page

    return 200, _JSON, _page.flame(arguments).encode()


_OPERATIONS: dict[str, Callable[[dict[str, Any]], _Said]] = {
    "version": _version,
    "list_jobs": _list_jobs,
    "submit_job": _submit_job,
    "get_job": _get_job,
    "delete_job": _delete_job,
    "stop_job": _stop_job,
    "job_logs": _job_logs,
    "list_state": _list_state,
    "summarize_state": _summarize_state,
    "timeline": _timeline,
    "metrics": _metrics,
    "cluster_status": _cluster_status,
    "nodes": _nodes,
    "node": _node,
    "actors": _actors,
    "health": _health,
    "look": _look,
    "page": _page_part,
    "stack": _stack,
    "flame": _flame,
}
