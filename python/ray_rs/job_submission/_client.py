"""The client: HTTP to the head's web service."""

from __future__ import annotations

import dataclasses
import json
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ray_rs.job_submission._types import DriverInfo, JobDetails, JobStatus

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

__all__ = ["JobSubmissionClient"]

_LIMIT_S = 60.0
_UPLOAD_LIMIT_S = 600.0
_DEFAULT_PORT = 8265
# Between two looks at the log of a job that prints nothing.
_PAUSE_S = 0.25
_KEY_PURPOSE = b"ray_rs web key 1"
_FIELDS = {field.name for field in dataclasses.fields(JobDetails)}


class JobSubmissionClient:
    """Submits jobs and looks at them.

    Args:
        address: Of the head's web service, as "http://127.0.0.1:8265"; RAY_API_SERVER_ADDRESS, RAY_ADDRESS if that is
            such an address, else the newest session of this machine that has one, when None.
        create_cluster_if_needed: Of Ray's, for launchers of clusters; without effect.
        cookies: Sent along.
        metadata: Added to that of each job.
        headers: Sent along; `{"Authorization": "Bearer KEY"}` with what `ray_rs get-auth-token` prints, for a cluster
            of another machine or user.
        verify: Of an https address: False takes any certificate; a path is that of authorities' certificates.

    Raises:
        TypeError: An argument of the wrong type.
        ConnectionError: Nobody answers there, or there is no session.
        RuntimeError: The service refuses, or is no service for jobs.
    """

    def __init__(
        self,
        address: str | None = None,
        create_cluster_if_needed: bool = False,
        cookies: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        verify: str | bool | None = True,
    ) -> None:
        for name, value in (("cookies", cookies), ("metadata", metadata), ("headers", headers)):
            if value is not None and not isinstance(value, dict):
                raise TypeError(f"{name} must be a dict, got {type(value)}")
        if address is not None and not isinstance(address, str):
            raise TypeError(f"address must be a string, got {type(address)}")
        if not isinstance(verify, (str, bool, type(None))):
            raise TypeError(f"verify must be a string or a bool, got {type(verify)}")
        self._address = _web_address(address)
        self._default_metadata = dict(metadata or {})
        self._headers = {str(name): str(value) for name, value in (headers or _headers_of_environment()).items()}
        if cookies:
            self._headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        if not any(name.lower() in ("authorization", "x-ray-authorization") for name in self._headers):
            key = _key_for(self._address)
            if key:
                self._headers["Authorization"] = f"Bearer {key}"
        self._verify = verify
        self._version = self._ask("GET", "/api/version")

    def get_address(self) -> str:
        """Where the service is.

        Returns:
            An address that begins with "http".
        """
        return self._address

    def get_version(self) -> str:
        """Of the jobs interface.

        Returns:
            A number, as text.
        """
        return str(self._version["version"])

    # ------------------------------------------------------------------------------------------------------------ jobs

    def submit_job(
        self,
        *,
        entrypoint: str,
        job_id: str | None = None,
        runtime_env: dict[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
        submission_id: str | None = None,
        entrypoint_num_cpus: int | float | None = None,
        entrypoint_num_gpus: int | float | None = None,
        entrypoint_memory: int | None = None,
        entrypoint_resources: dict[str, float] | None = None,
        entrypoint_label_selector: dict[str, str] | None = None,
    ) -> str:
        """Submits a job: a command that runs on the head, or on a node that has what it holds.

        Args:
            entrypoint: The shell's command. Its programs find the cluster in RAY_ADDRESS.
            job_id: Deprecated; the same as `submission_id`.
            runtime_env: Of the command and of what its driver starts; a local `working_dir` and `py_modules` are
                uploaded.
            metadata: Strings by name.
            submission_id: A name that no job has; one is made up when None.
            entrypoint_num_cpus: What the command holds while it runs; nothing when None.
            entrypoint_num_gpus: The same.
            entrypoint_memory: The same, in bytes.
            entrypoint_resources: The same.
            entrypoint_label_selector: Labels of the node that it runs on.

        Returns:
            The submission id.

        Raises:
            ValueError: A path that is not there.
            RuntimeError: The id is taken, or the service refuses the job.
            ConnectionError: Nobody answers.
        """
        if job_id is not None:
            import warnings

            warnings.warn(
                "job_id kwarg is deprecated. Please use submission_id instead.", DeprecationWarning, stacklevel=2
            )
        from ray_rs import _env_packages

        fields = _env_packages.uploaded(dict(runtime_env or {}), self._has_package, self._put_package)
        job = {
            "entrypoint": entrypoint,
            "submission_id": submission_id or job_id,
            "runtime_env": fields,
            "metadata": {**self._default_metadata, **(metadata or {})},
            "entrypoint_num_cpus": entrypoint_num_cpus,
            "entrypoint_num_gpus": entrypoint_num_gpus,
            "entrypoint_memory": entrypoint_memory,
            "entrypoint_resources": entrypoint_resources,
            "entrypoint_label_selector": entrypoint_label_selector,
        }
        given = {name: value for name, value in job.items() if value is not None}
        return str(self._ask("POST", "/api/jobs/", json.dumps(given).encode())["submission_id"])

    def stop_job(self, job_id: str) -> bool:
        """Asks a job's command to end with SIGTERM, and ends it after three seconds.

        Args:
            job_id: Its submission id, or the id of its driver's job.

        Returns:
            Whether it had not ended already.

        Raises:
            RuntimeError: There is no such job.
        """
        return bool(self._ask("POST", f"/api/jobs/{quote(job_id, safe='')}/stop")["stopped"])

    def delete_job(self, job_id: str) -> bool:
        """Forgets a job that has ended, and its log.

        Args:
            job_id: As of `stop_job`.

        Returns:
            True.

        Raises:
            RuntimeError: There is no such job, or it has not ended.
        """
        return bool(self._ask("DELETE", f"/api/jobs/{quote(job_id, safe='')}")["deleted"])

    def get_job_info(self, job_id: str) -> JobDetails:
        """All that is known of a job.

        Args:
            job_id: As of `stop_job`.

        Returns:
            Its details.

        Raises:
            RuntimeError: There is no such job.
        """
        return _details(self._ask("GET", f"/api/jobs/{quote(job_id, safe='')}"))

    def list_jobs(self) -> list[JobDetails]:
        """All jobs: those that were submitted, and drivers that connected by themselves.

        Returns:
            Their details.
        """
        return [_details(job) for job in self._ask("GET", "/api/jobs/")]

    def get_job_status(self, job_id: str) -> JobStatus:
        """How far a job is.

        Args:
            job_id: As of `stop_job`.

        Returns:
            Its status.

        Raises:
            RuntimeError: There is no such job.
        """
        return self.get_job_info(job_id).status

    def get_job_logs(self, job_id: str) -> str:
        """What a job's command has printed.

        Args:
            job_id: As of `stop_job`.

        Returns:
            Standard output and standard error.

        Raises:
            RuntimeError: There is no such job.
        """
        return str(self._ask("GET", f"/api/jobs/{quote(job_id, safe='')}/logs")["logs"])

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """Follows what a job's command prints, until it has ended.

        Args:
            job_id: As of `stop_job`.

        Yields:
            Some lines.

        Raises:
            RuntimeError: There is no such job.
            ConnectionError: The service went away.
        """
        import asyncio

        pieces = self._followed(job_id)
        try:
            while True:
                piece = await asyncio.to_thread(next, pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            # Closes the connection: a thread that still reads then ends.
            pieces.close()

    # ------------------------------------------------------------------------------------------------------------ HTTP

    def _followed(self, job_id: str) -> Any:
        from ray_rs.job_submission import _websocket

        connection = self._connection(None)
        return _websocket.messages(connection, f"/api/jobs/{quote(job_id, safe='')}/logs/tail", self._headers, _refused)

    def _has_package(self, name: str) -> bool:
        with self._response("GET", f"/api/packages/gcs/{name}") as response:
            return response.status == 200

    def _put_package(self, name: str, path: str) -> None:
        with open(path, "rb") as file:
            self._ask("PUT", f"/api/packages/gcs/{name}", file, _UPLOAD_LIMIT_S)

    def _ask(self, method: str, path: str, body: Any = None, limit_s: float = _LIMIT_S) -> Any:
        with self._response(method, path, body, limit_s) as response:
            content = response.read()
            if response.status != 200:
                raise _refused(response.status, content.decode(errors="replace"))
            return json.loads(content) if content else None

    def _response(self, method: str, path: str, body: Any = None, limit_s: float = _LIMIT_S) -> HTTPResponse:
        from http.client import HTTPException

        connection = self._connection(limit_s)
        headers = dict(self._headers)
        headers["Connection"] = "close"
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        elif body is not None:
            headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        try:
            connection.request(method, path, body, headers)
            return connection.getresponse()
        except (OSError, HTTPException) as error:
            connection.close()
            raise ConnectionError(f"Failed to connect to Ray at address: {self._address}. {error}") from error

    def _connection(self, limit_s: float | None) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        parts = urlsplit(self._address)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "http":
            return HTTPConnection(host, port, timeout=limit_s)
        context = ssl.create_default_context(cafile=self._verify if isinstance(self._verify, str) else None)
        if self._verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return HTTPSConnection(host, port, timeout=limit_s, context=context)


def _details(job: dict[str, Any]) -> JobDetails:
    fields = {name: value for name, value in job.items() if name in _FIELDS}
    if fields.get("driver_info"):
        fields["driver_info"] = DriverInfo(**fields["driver_info"])
    return JobDetails(**fields)


def _refused(status: int, text: str) -> RuntimeError:
    return RuntimeError(f"Request failed with status code {status}: {text}.")


# ------------------------------------------------------------------------------------------------- address and key


def _sessions() -> Iterator[tuple[str, str]]:
    """Directory and web address of the sessions of this user on this machine, newest first."""
    from ray_rs import _processes

    for session in reversed(_processes.living_sessions()):
        directory = session["session_dir"]
        try:
            with open(f"{directory}/dashboard_address") as file:
                yield directory, file.read().strip()
        except OSError:
            continue


def _web_address(given: str | None) -> str:
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or ""
    if not address and os.environ.get("RAY_ADDRESS", "").startswith(("http://", "https://")):
        address = os.environ["RAY_ADDRESS"]
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    if address and address != "auto":
        scheme, separator, _ = address.partition("://")
        if separator:
            raise RuntimeError(f"Module: {scheme} does not exist.\nThis module was parsed from address: {address}")
        # Of the control store, or of the service without the scheme.
        return f"http://{_of_control_store(address) or address}"
    for _, found in _sessions():
        return f"http://{found}"
    raise ConnectionError(
        "Could not find any running Ray instance that takes jobs. Start one with `ray_rs start --head`, or say with "
        f"address='http://HOST:{_DEFAULT_PORT}' where one is."
    )


def _of_control_store(address: str) -> str | None:
    for directory, found in _sessions():
        with open(f"{directory}/gcs_address") as file:
            if file.read().strip() == address:
                return found
    return None


def _headers_of_environment() -> dict[str, Any]:
    text = os.environ.get("RAY_JOB_HEADERS")
    if not text:
        return {}
    try:
        headers = json.loads(text)
    except ValueError as error:
        raise ValueError(f"RAY_JOB_HEADERS is not JSON: {error}") from None
    if not isinstance(headers, dict):
        raise TypeError("RAY_JOB_HEADERS must be a JSON object")
    return headers


def key_of_token(token: str) -> str:
    """The key of a cluster's web service.

    Args:
        token: The cluster's, as its file has it.

    Returns:
        The key, which does not tell the token.

    Raises:
        ValueError: No such digits.
    """
    import hmac

    return hmac.new(bytes.fromhex(token.removeprefix("tls-")), _KEY_PURPOSE, "sha256").hexdigest()


def _key_for(address: str) -> str | None:
    """What opens the service: said in the environment, or that of a session of this machine."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        with open(os.environ["RAY_AUTH_TOKEN_PATH"]) as file:
            return file.read().strip()
    token = os.environ.get("RAY_RS_TOKEN", "").strip()
    if not token:
        parts = urlsplit(address)
        wanted = (_number(parts.hostname or ""), parts.port)
        for directory, found in _sessions():
            host, _, port = found.rpartition(":")
            if wanted == (host.strip("[]"), int(port)):
                with open(f"{directory}/token") as file:
                    token = file.read().strip()
                break
    return key_of_token(token) if token else None


def _number(host: str) -> str:
    import socket

    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return host
