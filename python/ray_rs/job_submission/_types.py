"""What is known of a job."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from typing import Any

__all__ = ["DriverInfo", "JobDetails", "JobErrorType", "JobInfo", "JobStatus", "JobType"]


class JobStatus(str, Enum):
    """How far a job is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def __str__(self) -> str:
        return self.value

    def is_terminal(self) -> bool:
        """Whether it stays like that.

        Returns:
            True for STOPPED, SUCCEEDED and FAILED.
        """
        return self in (JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED)


class JobType(str, Enum):
    """Where a job comes from: it was submitted, or a driver connected by itself."""

    SUBMISSION = "SUBMISSION"
    DRIVER = "DRIVER"


class JobErrorType(str, Enum):
    """Why a job failed."""

    RUNTIME_ENV_SETUP_FAILURE = "RUNTIME_ENV_SETUP_FAILURE"
    JOB_SUPERVISOR_ACTOR_START_TIMEOUT = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
    JOB_SUPERVISOR_ACTOR_START_FAILURE = "JOB_SUPERVISOR_ACTOR_START_FAILURE"
    JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE = "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
    JOB_SUPERVISOR_ACTOR_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
    JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE = "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"
    JOB_ENTRYPOINT_COMMAND_START_ERROR = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
    JOB_ENTRYPOINT_COMMAND_ERROR = "JOB_ENTRYPOINT_COMMAND_ERROR"
    INTERNAL_ERROR = "INTERNAL_ERROR"


@dataclasses.dataclass
class DriverInfo:
    """The driver of a job.

    Attributes:
        id: Its job's id in hexadecimal digits.
        node_ip_address: Where it runs.
        pid: Its process id there, as text.
    """

    id: str
    node_ip_address: str
    pid: str


@dataclasses.dataclass
class JobInfo:
    """A submitted job as the cluster keeps it. Times are milliseconds since 1970, as in Ray.

    Attributes:
        status: How far it is.
        entrypoint: The shell's command.
        message: The same for people.
        error_type: Of `JobErrorType`, when it failed.
        start_time: When it was submitted.
        end_time: When it ended.
        metadata: Strings by name, as they were submitted.
        runtime_env: As it was submitted.
        entrypoint_num_cpus: What the command holds while it runs.
        entrypoint_num_gpus: The same.
        entrypoint_memory: The same, in bytes.
        entrypoint_resources: The same.
        driver_agent_http_address: None: nodes have no agents.
        driver_node_id: Where the command runs.
        driver_exit_code: Of the command.
    """

    status: JobStatus
    entrypoint: str
    message: str | None = None
    error_type: JobErrorType | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    entrypoint_num_cpus: float | None = None
    entrypoint_num_gpus: float | None = None
    entrypoint_memory: int | None = None
    entrypoint_resources: dict[str, float] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None
    _log_path: str | None = None

    def __post_init__(self) -> None:
        self.status = JobStatus(self.status)
        if self.error_type is not None:
            self.error_type = JobErrorType(self.error_type)
        if self.message is None:
            self.message = _MESSAGES.get(self.status)

    def to_json(self) -> str:
        """All fields, as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> JobInfo:
        """What `to_json` gave, or what has its fields."""
        return cls(**json.loads(text))


_MESSAGES = {
    JobStatus.PENDING: "Job has not started yet. It may be waiting for resources or for its runtime environment.",
    JobStatus.RUNNING: "Job is currently running.",
    JobStatus.STOPPED: "Job was intentionally stopped.",
    JobStatus.SUCCEEDED: "Job finished successfully.",
    JobStatus.FAILED: "Job failed.",
}


@dataclasses.dataclass
class JobDetails:
    """A job as `JobSubmissionClient` shows it; fields as in `JobInfo`, and its ids.

    Attributes:
        type: Submitted, or a driver that connected by itself.
        job_id: Id of its driver's job; None before that has connected, or when the command is no driver.
        submission_id: None for a driver that connected by itself.
        driver_info: The driver; None as for `job_id`.
    """

    type: JobType
    status: JobStatus
    entrypoint: str
    job_id: str | None = None
    submission_id: str | None = None
    driver_info: DriverInfo | None = None
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None

    def __post_init__(self) -> None:
        self.type = JobType(self.type)
        self.status = JobStatus(self.status)

    def dict(self) -> dict[str, Any]:
        """All fields, as plain values.

        Returns:
            Values by name.
        """
        return dataclasses.asdict(self)
