"""`job submit`, `job status`, `job logs`, `job stop`, `job delete`, `job list`, and `get-auth-token`."""

from __future__ import annotations

import argparse
import asyncio
import json
import pprint
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

from ray_rs.job_submission import JobStatus, JobSubmissionClient
from ray_rs.scripts import _output
from ray_rs.scripts._parser import add_format

__all__ = ["add"]

_PAUSE_S = 0.5


def add(commands: Any) -> None:
    """Adds the commands.

    Args:
        commands: What `argparse` calls subparsers.
    """
    job = commands.add_parser("job", help="submit jobs to a cluster, and look at them")
    verbs = job.add_subparsers(title="commands", metavar="COMMAND", required=True)

    submit = verbs.add_parser("submit", help="run a command on the cluster", usage="ray_rs job submit [options] -- CMD")
    submit.add_argument("--submission-id", help="a name for the job (default: one is made up)")
    submit.add_argument("--runtime-env", metavar="FILE", help="a runtime environment, as JSON or YAML")
    submit.add_argument("--runtime-env-json", metavar="JSON", help="a runtime environment")
    submit.add_argument("--working-dir", metavar="DIR", help="uploaded; the command runs there")
    submit.add_argument("--metadata-json", metavar="JSON", help="strings by name")
    submit.add_argument("--entrypoint-num-cpus", type=float, help="what the command holds while it runs")
    submit.add_argument("--entrypoint-num-gpus", type=float)
    submit.add_argument("--entrypoint-memory", type=int, help="in bytes")
    submit.add_argument("--entrypoint-resources", metavar="JSON", help="further resources by name")
    submit.add_argument("--entrypoint-label-selector", metavar="JSON", help="labels of the node that it runs on")
    submit.add_argument("--no-wait", action="store_true", help="do not follow what it prints")
    submit.add_argument("entrypoint", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command")
    submit.set_defaults(run=_submit)

    for name, run, text in (
        ("status", _status, "how far a job is"),
        ("stop", _stop, "end a job"),
        ("delete", _delete, "forget a job that has ended"),
        ("logs", _logs, "what a job has printed"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("job_id", metavar="ID")
        verb.set_defaults(run=run)
        if name == "stop":
            verb.add_argument("--no-wait", action="store_true", help="do not wait for its end")
        if name == "logs":
            verb.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    listing = verbs.add_parser("list", help="all jobs")
    listing.set_defaults(run=_list)
    for verb in verbs.choices.values():
        add_format(verb)
        verb.add_argument("--address", help="of the head's web service: http://HOST:PORT (default: on this machine)")
        verb.add_argument("--verify", default="true", help="of an https address: true, false, or a file of authorities")
        verb.add_argument("--headers", metavar="JSON", help="sent along")

    token = commands.add_parser("get-auth-token", help="print the key of a cluster's web service")
    token.add_argument("--address", help="which session: host:port or its directory (default: RAY_ADDRESS, the newest)")
    add_format(token)
    token.set_defaults(run=_get_auth_token)


def _client(arguments: argparse.Namespace) -> JobSubmissionClient:
    words = {"true": True, "1": True, "false": False, "0": False}
    headers = _object(arguments.headers, "--headers")
    return JobSubmissionClient(
        arguments.address, headers=headers, verify=words.get(arguments.verify.lower(), arguments.verify)
    )


def _object(text: str | None, option: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{option} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{option} must be a JSON object, not {value!r}")
    return value


def _rule(text: str) -> str:
    rule = "-" * len(text)
    return f"\n{rule}\n{text}\n{rule}\n"


# -------------------------------------------------------------------------------------------------------------- submit


def _environment(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.runtime_env and arguments.runtime_env_json:
        raise ValueError("Only one of --runtime-env and --runtime-env-json can be provided.")
    fields = _object(arguments.runtime_env_json, "--runtime-env-json") or {}
    if arguments.runtime_env:
        from ray_rs import _autoscaling

        with open(arguments.runtime_env, encoding="utf-8") as file:
            fields = _autoscaling.parsed(file.read()) or {}
        if not isinstance(fields, dict):
            raise ValueError(f"{arguments.runtime_env} must hold a mapping, not {fields!r}")
    if arguments.working_dir:
        fields["working_dir"] = arguments.working_dir
    return fields


def _submit(arguments: argparse.Namespace) -> int:
    words = arguments.entrypoint[1:] if arguments.entrypoint[:1] == ["--"] else arguments.entrypoint
    if not words:
        raise ValueError("There is no command: ray_rs job submit [options] -- CMD")
    client = _client(arguments)
    say = _narrator(arguments)
    say(f"Job submission server address: {client.get_address()}")
    job = client.submit_job(
        # One word is a line for the shell.
        entrypoint=words[0] if len(words) == 1 else shlex.join(words),
        submission_id=arguments.submission_id,
        runtime_env=_environment(arguments),
        metadata=_object(arguments.metadata_json, "--metadata-json"),
        entrypoint_num_cpus=arguments.entrypoint_num_cpus,
        entrypoint_num_gpus=arguments.entrypoint_num_gpus,
        entrypoint_memory=arguments.entrypoint_memory,
        entrypoint_resources=_object(arguments.entrypoint_resources, "--entrypoint-resources"),
        entrypoint_label_selector=_object(arguments.entrypoint_label_selector, "--entrypoint-label-selector"),
    )
    say(_rule(f"Job '{job}' submitted successfully"))
    say(f"Next steps\n  Query the logs of the job:\n    ray_rs job logs {job}")
    say(f"  Query the status of the job:\n    ray_rs job status {job}")
    say(f"  Request the job to be stopped:\n    ray_rs job stop {job}\n")
    if arguments.no_wait:
        if arguments.format != "default":
            _told(client, job, arguments.format)
        return 0
    say("Tailing logs until the job exits (disable with --no-wait):")
    asyncio.run(_follow(client, job, sys.stdout if arguments.format == "default" else sys.stderr))
    return _told(client, job, arguments.format)


def _narrator(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Says what goes on; where the answer is for a program, not beside it."""
    return partial(print, flush=True, file=sys.stdout if arguments.format == "default" else sys.stderr)


async def _follow(client: JobSubmissionClient, job: str, file: TextIO) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True, file=file)


def _told(client: JobSubmissionClient, job: str, format: str) -> int:
    """Says how a job stands; 1 when it has failed."""
    info = client.get_job_info(job)
    if format != "default":
        print(_output.structured(info.dict(), format))
        return int(info.status is JobStatus.FAILED)
    if info.status is JobStatus.SUCCEEDED:
        print(_rule(f"Job '{job}' succeeded"))
    elif info.status is JobStatus.STOPPED:
        print(_rule(f"Job '{job}' was stopped"))
    elif info.status is JobStatus.FAILED:
        print(_rule(f"Job '{job}' failed"))
        print(f"Status message: {info.message}", flush=True)
        return 1
    else:
        print(f"Status for job '{job}': {info.status}")
        if info.message:
            print(f"Status message: {info.message}")
    return 0


# -------------------------------------------------------------------------------------------------------------- others


def _status(arguments: argparse.Namespace) -> int:
    _told(_client(arguments), arguments.job_id, arguments.format)
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    say = _narrator(arguments)
    say(f"Attempting to stop job '{arguments.job_id}'")
    client.stop_job(arguments.job_id)
    if arguments.no_wait:
        if arguments.format != "default":
            _told(client, arguments.job_id, arguments.format)
        return 0
    say("Waiting for job to exit (disable with --no-wait):")
    while not client.get_job_status(arguments.job_id).is_terminal():
        time.sleep(_PAUSE_S)
    _told(client, arguments.job_id, arguments.format)
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    _client(arguments).delete_job(arguments.job_id)
    told = {"submission_id": arguments.job_id, "is_deleted": True}
    _output.say(f"Job '{arguments.job_id}' deleted successfully", told, arguments.format)
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    if not arguments.follow:
        text = client.get_job_logs(arguments.job_id)
        if arguments.format != "default":
            text = _output.structured({"submission_id": arguments.job_id, "logs": text}, arguments.format) + "\n"
        print(text, end="")
        return 0
    asyncio.run(_follow(client, arguments.job_id, sys.stdout if arguments.format == "default" else sys.stderr))
    return _told(client, arguments.job_id, arguments.format)


def _list(arguments: argparse.Namespace) -> int:
    jobs = _client(arguments).list_jobs()
    if arguments.format == "default":
        pprint.pprint(jobs)
    else:
        print(_output.structured([job.dict() for job in jobs], arguments.format))
    return 0


def _get_auth_token(arguments: argparse.Namespace) -> int:
    from ray_rs.job_submission._client import key_of_token
    from ray_rs.util.state._rows import session_directory

    with open(f"{session_directory(arguments.address)}/token") as file:
        key = key_of_token(file.read().strip())
    _output.say(key, {"token": key}, arguments.format)
    return 0
