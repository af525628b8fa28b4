"""Submitted jobs, as their submitter and as somebody at a shell sees them; and the service that takes them."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time

import pytest
import traces
from heads import Head, command
from ray_rs.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType
from under_test import contents, ray, wait_until

pytestmark = pytest.mark.ray_rs_only("submitted jobs are tried with our own heads")


@pytest.fixture(autouse=True)
def _leak_check():
    """The head lives through the tests of this module; what is left is looked for at its end."""


@pytest.fixture(scope="module")
def head():
    ray.shutdown()
    yield Head()
    command("stop")
    wait_until(lambda: not traces.processes() and not traces.session_files(), "everything to be gone")


@pytest.fixture
def own_heads():
    """For tests that kill parts of theirs; the others' head stays."""
    made = []
    yield lambda *arguments, **environment: made.append(Head(*arguments, **environment)) or made[-1]
    from ray_rs import _processes

    ray.shutdown()
    for each in made:
        _processes.stop_node(each.directory)


@pytest.fixture
def client(head):
    return JobSubmissionClient(f"http://{head.web}")


def ended(client, job, status=JobStatus.SUCCEEDED):
    wait_until(lambda: client.get_job_status(job).is_terminal(), f"{job} to end", 40)
    info = client.get_job_info(job)
    assert info.status is status, info.message
    return info


def python(source):
    return f"{sys.executable} -c '{source}'"


# ------------------------------------------------------------------------------------------------------------- working


def test_a_job_runs_and_is_known(client):
    job = client.submit_job(entrypoint="echo hello; echo wrong >&2", metadata={"who": "me"})
    assert re.fullmatch("raysubmit_[A-Za-z0-9]{16}", job)
    info = ended(client, job)
    assert isinstance(info, JobDetails)
    assert info.type is JobType.SUBMISSION
    assert (info.submission_id, info.entrypoint, info.metadata) == (job, "echo hello; echo wrong >&2", {"who": "me"})
    assert info.driver_exit_code == 0
    assert info.message == "Job finished successfully."
    assert info.start_time <= info.end_time <= time.time() * 1000 + 1000
    lines = client.get_job_logs(job).splitlines()
    assert lines[0].startswith(f"Running entrypoint for job {job}: echo hello")
    assert lines[1:] == ["hello", "wrong"]
    assert job in [each.submission_id for each in client.list_jobs()]


def test_a_job_s_driver_works_in_its_environment(client, tmp_path):
    (tmp_path / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "secret.txt").write_text("left out")
    (tmp_path / "script.py").write_text(
        "import os, ray_rs as ray, helper\n"
        "ray.init(logging_level='error')\n"
        "@ray.remote\n"
        "def f(x):\n"
        "    return helper.double(x), os.environ['GREETING'], sorted(os.listdir())\n"
        "print(ray.get(f.remote(21)))\n"
        "print(ray.get_runtime_context().get_job_id())\n"
    )
    env = {"working_dir": str(tmp_path), "excludes": ["*.txt"], "env_vars": {"GREETING": "hi"}}
    job = client.submit_job(entrypoint="python script.py", runtime_env=env)
    info = ended(client, job)
    first, job_id = client.get_job_logs(job).splitlines()[1:]
    assert first == "(42, 'hi', ['helper.py', 'script.py'])"
    assert info.job_id == job_id == info.driver_info.id
    assert client.get_job_info(job_id).submission_id == job
    assert info.runtime_env["working_dir"].startswith("gcs://_ray_pkg_")
    # The same files are not sent again, and others are others.
    again = client.submit_job(entrypoint="true", runtime_env=env)
    assert ended(client, again).runtime_env == info.runtime_env
    (tmp_path / "helper.py").write_text("other")
    other = client.submit_job(entrypoint="cat helper.py", runtime_env=env)
    assert ended(client, other).runtime_env != info.runtime_env
    assert client.get_job_logs(other).endswith("other")


def test_modules_are_uploaded(client, tmp_path):
    (tmp_path / "outer" / "inner_module").mkdir(parents=True)
    (tmp_path / "outer" / "inner_module" / "__init__.py").write_text("VALUE = 'of the module'\n")
    env = {"py_modules": [str(tmp_path / "outer" / "inner_module")]}
    job = client.submit_job(entrypoint=python("import inner_module; print(inner_module.VALUE)"), runtime_env=env)
    ended(client, job)
    assert client.get_job_logs(job).splitlines()[-1] == "of the module"


def test_a_command_that_fails(client):
    job = client.submit_job(entrypoint="echo last words; exit 7")
    info = ended(client, job, JobStatus.FAILED)
    assert info.driver_exit_code == 7
    assert info.message.startswith("Job entrypoint command failed with exit code 7, last available logs")
    assert "last words" in info.message
    assert info.error_type == "JOB_ENTRYPOINT_COMMAND_ERROR"


def test_stop_ends_a_job_and_what_it_has_started(client, tmp_path):
    job = client.submit_job(entrypoint=f"sleep 1000 & echo $! > {tmp_path}/pid; wait")
    wait_until(lambda: contents(tmp_path / "pid"), "the command to run")
    assert client.get_job_status(job) is JobStatus.RUNNING
    with pytest.raises(RuntimeError, match="non-terminal state RUNNING"):
        client.delete_job(job)
    assert client.stop_job(job) is True
    info = ended(client, job, JobStatus.STOPPED)
    assert info.message == "Job was intentionally stopped."
    assert not os.path.exists(f"/proc/{contents(tmp_path / 'pid').strip()}")
    assert client.stop_job(job) is False
    assert client.delete_job(job) is True
    with pytest.raises(RuntimeError, match=f"404: Job {job} does not exist"):
        client.get_job_status(job)


def test_stop_insists(own_heads, tmp_path):
    mine = own_heads(RAY_JOB_STOP_WAIT_TIME_S="0.2")
    client = JobSubmissionClient(f"http://{mine.web}")
    job = client.submit_job(entrypoint=f"trap '' TERM; touch {tmp_path}/on; while true; do sleep 0.05; done")
    wait_until((tmp_path / "on").exists, "the command to run")
    client.stop_job(job)
    assert ended(client, job, JobStatus.STOPPED).driver_exit_code == -signal.SIGKILL


def test_what_a_job_prints_is_followed(client, tmp_path):
    gate = tmp_path / "gate"
    source = f"echo gr\\\\303\\\\274n; while [ ! -e {gate} ]; do sleep 0.02; done; echo done"
    job = client.submit_job(entrypoint=f"printf 'gr\\303\\274n\\n'; {source.partition('; ')[2]}")

    async def follow():
        text = ""
        async for piece in client.tail_job_logs(job):
            text += piece
            # It comes while the job still runs.
            if "grün" in text and not gate.exists():
                assert client.get_job_status(job) is JobStatus.RUNNING
                gate.touch()
        return text

    assert asyncio.run(follow()).splitlines()[1:] == ["grün", "done"]
    with pytest.raises(RuntimeError, match="404"):
        asyncio.run(anext(client.tail_job_logs("nobody")))


def test_resources_are_held_while_the_command_runs(client, head, tmp_path):
    gate = tmp_path / "gate"
    waits = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    first = client.submit_job(entrypoint=waits, entrypoint_num_cpus=2)
    second = client.submit_job(entrypoint="true", entrypoint_num_cpus=1)
    wait_until(lambda: client.get_job_status(first) is JobStatus.RUNNING, "the first to run")
    info = client.get_job_info(second)
    assert info.status is JobStatus.PENDING
    assert "resources" in info.message
    # One that waits can be stopped as well.
    third = client.submit_job(entrypoint=f"touch {tmp_path}/never", entrypoint_num_cpus=2)
    assert client.stop_job(third) is True
    assert client.get_job_status(third) is JobStatus.STOPPED
    gate.touch()
    ended(client, first)
    ended(client, second)
    assert not (tmp_path / "never").exists()


def test_ids_are_used_once(client):
    assert client.submit_job(entrypoint="true", submission_id="mine") == "mine"
    with pytest.raises(RuntimeError, match="Job with submission_id mine already exists"):
        client.submit_job(entrypoint="true", submission_id="mine")
    with pytest.warns(DeprecationWarning, match="submission_id"):
        assert client.submit_job(entrypoint="true", job_id="old") == "old"
    ended(client, "mine")
    ended(client, "old")


def test_drivers_of_programs_are_jobs_too(client, head):
    ray.init(address=head.address, namespace="somebody", logging_level="error")
    try:
        mine = ray.get_runtime_context().get_job_id()
        (row,) = [each for each in client.list_jobs() if each.job_id == mine]
        assert (row.type, row.status, row.submission_id) == (JobType.DRIVER, JobStatus.RUNNING, None)
        assert row.driver_info.pid == str(os.getpid())
        assert client.get_job_info(mine).job_id == mine
        job = client.submit_job(entrypoint="true")
        ended(client, job)
        from ray_rs.util.state import get_log, list_jobs

        rows = {each.submission_id: each for each in list_jobs()}
        assert (rows[job].type, rows[job].status, rows[job].entrypoint) == ("SUBMISSION", "SUCCEEDED", "true")
        assert "".join(get_log(submission_id=job)).startswith("Running entrypoint")
        assert not any("_web" in each.entrypoint for each in rows.values())
    finally:
        ray.shutdown()


# ------------------------------------------------------------------------------------------------------------- failing


def test_bad_jobs_are_refused_where_they_are_submitted(client, head):
    for body, words in (
        ({}, "entrypoint"),
        ({"entrypoint": " "}, "entrypoint"),
        ({"entrypoint": 1}, "entrypoint must be str"),
        ({"entrypoint": "true", "nonsense": 1}, "nonsense"),
        ({"entrypoint": "true", "metadata": {"a": 1}}, "metadata"),
        ({"entrypoint": "true", "submission_id": "../up"}, "submission_id"),
        ({"entrypoint": "true", "entrypoint_num_cpus": True}, "entrypoint_num_cpus"),
        ({"entrypoint": "true", "entrypoint_num_cpus": -1}, "can't be submitted"),
        ({"entrypoint": "true", "runtime_env": {"working_dir": "gcs://never.zip"}}, "was not uploaded"),
        ({"entrypoint": "true", "runtime_env": {"working_dir": "gcs://../../token"}}, "was not uploaded"),
        ({"entrypoint": "true", "runtime_env": {"env_vars": {"A": 1}}}, "env_vars"),
        ([], "JSON object"),
    ):
        status, text = head.request("POST", "/api/jobs/", body)
        assert status == 400, body
        assert words in text, body
    with pytest.raises(ValueError, match="working_dir"):
        client.submit_job(entrypoint="true", runtime_env={"working_dir": "/no/such/directory"})
    with pytest.raises(RuntimeError, match="404"):
        client.stop_job("nobody")
    with pytest.raises(RuntimeError, match="404"):
        client.get_job_logs("../../token")


def test_addresses_that_lead_nowhere(no_cluster, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"Failed to connect to Ray at address: http://127.0.0.1:{port}"):
        JobSubmissionClient(f"http://127.0.0.1:{port}")
    with pytest.raises(TypeError, match="headers must be a dict"):
        JobSubmissionClient("http://127.0.0.1:1", headers=[])
    with pytest.raises(TypeError, match="address must be a string"):
        JobSubmissionClient(1)
    with pytest.raises(RuntimeError, match="Module: nonsense does not exist"):
        JobSubmissionClient("nonsense://1")


def test_an_environment_that_can_t_be_made_fails_the_job(client):
    job = client.submit_job(entrypoint="true", runtime_env={"pip": ["no-such-package-at-all==0.0.0"], "env_vars": {}})
    info = ended(client, job, JobStatus.FAILED)
    assert info.error_type == "RUNTIME_ENV_SETUP_FAILURE"
    assert "no-such-package-at-all" in info.message


def test_an_archive_that_lies_about_itself(client, head):
    import zipfile

    assert head.request("PUT", "/api/packages/gcs/_ray_pkg_broken.zip", b"no archive")[0] == 200
    job = {"entrypoint": "true", "runtime_env": {"working_dir": "gcs://_ray_pkg_broken.zip"}}
    status, text = head.request("POST", "/api/jobs/", job)
    assert (status, "can't be unpacked" in text) == (400, True)
    # A gigabyte of zeros in a megabyte.
    path = os.path.join(os.environ["RAY_RS_TEST_SCRATCH"], "bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as member:
        for _ in range(600):
            member.write(bytes(1 << 20))
    with open(path, "rb") as file:
        assert head.request("PUT", "/api/packages/gcs/_ray_pkg_bomb.zip", file.read())[0] == 200
    job["runtime_env"]["working_dir"] = "gcs://_ray_pkg_bomb.zip"
    status, text = head.request("POST", "/api/jobs/", job)
    assert (status, "are allowed" in text) == (400, True)
    resources = f"{head.directory}/runtime_resources"
    assert not [name for name in os.listdir(resources) if "bomb" in name or "broken" in name]


def test_a_supervisor_that_dies_fails_its_job(client, head):
    job = client.submit_job(entrypoint="sleep 1000")
    wait_until(lambda: client.get_job_status(job) is JobStatus.RUNNING, "the job to run")
    ray.init(address=head.address, logging_level="error")
    try:
        from ray_rs.util.state import list_actors

        (actor,) = list_actors(filters=[("name", "=", f"_ray_internal_job_actor_{job}"), ("state", "=", "ALIVE")])
        os.kill(actor.pid, signal.SIGKILL)
        info = ended(client, job, JobStatus.FAILED)
        assert info.error_type == "JOB_SUPERVISOR_ACTOR_DIED"
        assert "supervisor" in info.message
        wait_until(lambda: not any("sleep 1000" in each for each in traces.processes().values()), "the command to end")
    finally:
        ray.shutdown()


# ----------------------------------------------------------------------------------------------------------- surviving


def test_the_service_comes_and_goes_and_jobs_stay(own_heads, tmp_path):
    mine = own_heads(RAY_RS_WEB_IDLE_S="0.3")

    def services():
        lines = {pid: contents(f"/proc/{pid}/cmdline") for pid in traces.processes()}
        return [pid for pid, line in lines.items() if "_web.main" in line and mine.directory in line]

    assert not services(), "nobody has asked for it"
    client = JobSubmissionClient(f"http://{mine.web}")
    gate = tmp_path / "gate"
    job = client.submit_job(entrypoint=f"while [ ! -e {gate} ]; do sleep 0.02; done; echo still there")
    wait_until(lambda: client.get_job_status(job) is JobStatus.RUNNING, "the job to run")
    wait_until(lambda: not services(), "the service to end when nobody is there")
    assert client.get_job_status(job) is JobStatus.RUNNING, "it has been started again"
    (pid,) = services()
    os.kill(pid, signal.SIGKILL)
    gate.touch()

    def succeeded():
        try:
            return client.get_job_status(job) is JobStatus.SUCCEEDED
        except ConnectionError:  # of the one that was killed
            return False

    wait_until(succeeded, "the job to end")
    assert client.get_job_logs(job).endswith("still there\n")


def test_jobs_survive_the_control_store(own_heads, tmp_path):
    mine = own_heads()
    client = JobSubmissionClient(f"http://{mine.web}")
    gate = tmp_path / "gate"
    job = client.submit_job(entrypoint=f"while [ ! -e {gate} ]; do sleep 0.02; done; echo still there")
    wait_until(lambda: client.get_job_status(job) is JobStatus.RUNNING, "the job to run")
    (gcs,) = [pid for pid in traces.daemons("gcs") if mine.directory in contents(f"/proc/{pid}/cmdline")]
    os.kill(gcs, signal.SIGKILL)

    def answered():
        try:
            return client.get_job_status(job)
        except (ConnectionError, RuntimeError):  # it is not back yet
            return None

    # At the same address, and nothing that was acknowledged is forgotten.
    assert wait_until(answered, "the service to be back") is JobStatus.RUNNING
    assert contents(f"{mine.directory}/dashboard_address").strip() == mine.web
    gate.touch()
    wait_until(lambda: answered() is JobStatus.SUCCEEDED, "the job to end")
    assert client.get_job_logs(job).endswith("still there\n")


# ------------------------------------------------------------------------------------------------------------- who may


def test_who_gets_in(head):
    assert head.request("GET", "/api/version")[0] == 200
    for method, path in (
        ("GET", "/api/version"),
        ("GET", "/api/jobs/"),
        ("POST", "/api/jobs/"),
        ("DELETE", "/api/jobs/x"),
        ("PUT", "/api/packages/gcs/x.zip"),
        ("GET", "/api/jobs/x/logs/tail"),
        ("GET", "/nothing/there"),
    ):
        assert head.request(method, path, key=None)[0] == 401, path
        assert head.request(method, path, key="0" * 64)[0] == 403, path
        # The cluster's token itself is no key: it never travels.
        assert head.request(method, path, key=contents(f"{head.directory}/token").strip())[0] == 403, path
        assert head.request(method, path, host="evil.example")[0] == 403, path
        assert head.request(method, path, Origin="http://evil.example")[0] == 403, path
    assert head.request("GET", "/api/version", Origin=f"http://{head.web}")[0] == 200
    assert head.request("GET", "/api/version", host="localhost:1")[0] == 200
    assert head.request("GET", "/nothing/there")[0] == 404
    assert head.request("GET", "/api/version", key=None, Cookie=f"ray-authentication-token={head.key}")[0] == 200


def test_a_head_that_is_open_to_all(own_heads):
    mine = own_heads(RAY_AUTH_MODE="disabled")
    assert mine.request("GET", "/api/version", key=None)[0] == 200
    assert mine.request("GET", "/api/version", key=None, host="evil.example")[0] == 403


def test_large_and_slow_requests(head):
    status, _ = head.request("POST", "/api/jobs/", {"entrypoint": "x" * (5 << 20)})
    assert status == 413
    # One that says nothing is not waited for by others.
    host, _, port = head.web.rpartition(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(b"GET /api/version HTTP/1.1\r\n")
        assert head.request("GET", "/api/version")[0] == 200


def test_no_service_unless_it_is_wanted(own_heads):
    text = command("start", "--head", "--port=0", "--num-cpus=1", "--include-dashboard=false")
    (token,) = re.findall(r"^\s+(/\S+/token)$", text, re.MULTILINE)
    try:
        assert not os.path.exists(f"{os.path.dirname(token)}/dashboard_address")
    finally:
        from ray_rs import _processes

        _processes.stop_node(os.path.dirname(token))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"can't listen on port {port}" in command(
            "start", "--head", "--port=0", "--num-cpus=1", f"--dashboard-port={port}", status=1
        )


# --------------------------------------------------------------------------------------------------------------- state


def test_what_there_is_over_http(head):
    def fetched(path):
        status, text = head.request("GET", path)
        assert status == 200, text
        return json.loads(text)

    nodes = fetched("/api/v0/nodes?detail=true")["data"]["result"]
    assert nodes["total"] == 1
    node = nodes["result"][0]
    assert node["state"] == "ALIVE"
    assert fetched(f"/nodes/{node['node_id']}")["data"]["detail"]["node_id"] == node["node_id"]
    assert len(fetched("/nodes?view=summary")["data"]["summary"]) == 1
    named = "filter_keys=name&filter_predicates=%3D&filter_values=nobody"
    assert fetched(f"/api/v0/actors?limit=5&{named}")["data"]["result"]["result"] == []
    assert "cluster" in fetched("/api/v0/tasks/summarize")["data"]["result"]["result"]["node_id_to_summary"]
    assert isinstance(fetched("/api/v0/tasks/timeline"), list)
    assert "Total Usage" in fetched("/api/cluster_status")["data"]["autoscalingStatus"]
    assert "gcs_server" in fetched("/api/v0/logs")["data"]["result"]
    assert isinstance(fetched("/logical/actors")["data"]["actors"], dict)
    assert head.request("GET", "/api/gcs_healthz") == (200, "success")
    assert "ray_resources" in head.request("GET", "/metrics")[1]
    assert head.request("GET", "/api/v0/nonsense")[0] == 404
    assert head.request("GET", "/api/v0/actors?filter_keys=x")[0] == 400
    assert head.request("GET", "/api/v0/actors?limit=x")[0] == 400


# ------------------------------------------------------------------------------------------------------------ commands


def test_jobs_at_the_shell(head, tmp_path):
    (tmp_path / "say.py").write_text("import sys\nprint('said', sys.argv[1:])\n")
    web = {"RAY_API_SERVER_ADDRESS": f"http://{head.web}"}
    text = command(
        "job", "submit", "--submission-id=shell", f"--working-dir={tmp_path}", "--", "python", "say.py", "a b", **web
    )
    assert "Job 'shell' submitted successfully" in text
    assert "said ['a b']" in text
    assert "Job 'shell' succeeded" in text
    assert "Job 'shell' succeeded" in command("job", "status", "shell", **web)
    assert "said" in command("job", "logs", "shell", **web)
    assert "submission_id='shell'" in command("job", "list", **web)
    assert "said" in command("logs", "job", "--id=shell", f"--address={head.address}")
    failed = command("job", "submit", "--submission-id=bad", "--", "exit 3", status=1, **web)
    assert "Job 'bad' failed" in failed
    assert "exit code 3" in failed
    assert "submitted" in command("job", "submit", "--no-wait", "--submission-id=long", "--", "sleep 1000", **web)
    assert "was stopped" in command("job", "stop", "long", **web)
    assert "deleted" in command("job", "delete", "long", **web)
    assert "404" in command("job", "status", "long", status=1, **web)
    assert "There is no command" in command("job", "submit", status=1, **web)


def test_programs_join_the_head_of_the_machine(own_heads):
    # With no address, as Ray: the session that `start` has started, not a new one.
    mine = own_heads()
    context = ray.init(logging_level="error")
    assert context.address_info["gcs_address"] == mine.address
    assert context.dashboard_url == mine.web
    ray.shutdown()
    with pytest.raises(ValueError, match="When connecting to an existing cluster, num_cpus"):
        ray.init(num_cpus=1)
    context = ray.init("local", num_cpus=1, logging_level="error")
    assert context.address_info["gcs_address"] != mine.address
    ray.shutdown()


def test_a_session_of_a_program_takes_jobs_when_it_is_asked_to(no_cluster):
    context = ray.init("local", num_cpus=1, include_dashboard=True, dashboard_port=0, logging_level="error")
    client = JobSubmissionClient(f"http://{context.dashboard_url}")
    job = client.submit_job(entrypoint="echo in a session")
    ended(client, job)
    assert client.get_job_logs(job).endswith("in a session\n")
