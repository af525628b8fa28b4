"""`LoggingConfig` and `JobConfig`, and names that libraries ask for."""

import json
import os
import re

import pytest
from under_test import NAME, ray, ray_rs_only, run_driver


def test_settings_are_checked():
    config = ray.LoggingConfig(encoding="JSON", log_level="DEBUG", additional_log_standard_attrs=["name"])
    assert (config.encoding, config.log_level) == ("JSON", "DEBUG")
    with pytest.raises(ValueError, match="encoding"):
        ray.LoggingConfig(encoding="XML")
    with pytest.raises(ValueError, match="attribute"):
        ray.LoggingConfig(additional_log_standard_attrs=["nonsense"])


BODY = """
    import logging

    config = ray.LoggingConfig(encoding=%r, log_level="INFO", additional_log_standard_attrs=["name"])
    ray.init(num_cpus=1, logging_config=config)

    @ray.remote
    class Speaker:
        def speak(self):
            logging.getLogger("mine").info("from the actor")
            logging.getLogger("mine").debug("too low")

    @ray.remote
    def speak():
        logging.getLogger("mine").warning("from the task")

    speaker = Speaker.options(name="loud").remote()
    ray.get([speaker.speak.remote(), speak.remote()])
    logging.getLogger("mine").info("from the driver")
    ray.shutdown()
"""


def test_json_records_say_where_they_come_from():
    done = run_driver(BODY % "JSON")
    records = [json.loads(line) for line in (done.stderr + done.stdout).splitlines() if line.startswith("{")]
    found = {each["message"]: each for each in records}
    assert set(found) >= {"from the actor", "from the task", "from the driver"}
    assert "too low" not in found
    actor, task, driver = found["from the actor"], found["from the task"], found["from the driver"]
    assert actor["job_id"] == task["job_id"] == driver["job_id"]
    assert actor["actor_name"] == "loud"
    assert actor["task_name"] == "Speaker.speak"
    assert task["task_name"] == "speak"
    assert "actor_id" not in task
    assert "task_id" not in driver
    assert task["levelname"] == "WARNING"
    assert task["name"] == "mine"
    assert isinstance(task["timestamp_ns"], int)


def test_text_records_carry_the_same():
    done = run_driver(BODY % "TEXT")
    (line,) = [line for line in (done.stderr + done.stdout).splitlines() if "from the task" in line]
    assert re.search(r"WARNING.* -- from the task .*job_id=\w+ .*task_name=speak", line)
    assert not line.startswith("(speak pid")


def test_a_job_config_sets_what_init_would():
    done = run_driver(
        f"""
        import os
        from {NAME}.job_config import JobConfig

        config = JobConfig(
            ray_namespace="here", runtime_env={{"env_vars": {{"COLOUR": "red"}}}}, default_actor_lifetime="detached"
        )
        config.set_metadata("owner", "me")
        ray.init(num_cpus=1, job_config=config)
        print(ray.get_runtime_context().namespace)

        @ray.remote
        def colour():
            return os.environ["COLOUR"]

        print(ray.get(colour.remote()))

        @ray.remote
        class Stays:
            def ready(self):
                return 1

        stays = Stays.options(name="stays").remote()
        ray.get(stays.ready.remote())
        del stays
        print(ray.get(ray.get_actor("stays").ready.remote()))
        """
    )
    assert done.stdout.split() == ["here", "red", "1"]


def test_a_job_config_is_checked():
    job_config = ray.job_config.JobConfig
    with pytest.raises(ValueError, match="lifetime"):
        job_config(default_actor_lifetime="forever")
    with pytest.raises(TypeError):
        job_config().set_metadata("a", 1)
    assert job_config.from_json({"ray_namespace": "n"}).ray_namespace == "n"


@pytest.fixture
def session():
    ray.init(num_cpus=1)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("session")
def test_private_names_tell_the_truth():
    worker = __import__(f"{NAME}._private.worker", fromlist=["global_worker"])
    context = ray.get_runtime_context()
    assert worker.global_worker.mode == ray.SCRIPT_MODE
    assert worker.global_worker.current_job_id.hex() == context.get_job_id()
    assert worker._global_node.get_session_dir_path().endswith(context.get_session_name())
    assert os.path.isdir(worker._global_node.get_logs_dir_path())

    @ray.remote
    def mode():
        inside = __import__(f"{NAME}._private.worker", fromlist=["global_worker"]).global_worker
        return inside.mode, inside.current_task_id.hex() == ray.get_runtime_context().get_task_id()

    assert ray.get(mode.remote()) == (ray.WORKER_MODE, True)
    ray.shutdown()
    assert worker._global_node is None


@pytest.mark.usefixtures("session")
def test_deprecated_names_of_the_context():
    context = ray.get_runtime_context()
    with pytest.warns(DeprecationWarning, match="get_"):
        assert context.job_id.hex() == context.get_job_id()
    with pytest.warns(DeprecationWarning, match="the method"):
        assert context.get()["node_id"].hex() == context.get_node_id()
    assert context.get_session_name() in os.listdir(context.get_temp_dir())
    assert context.get_accelerator_ids()["GPU"] == []


@pytest.mark.usefixtures("session")
def test_on_ready_and_ready():
    import asyncio

    seen = []
    ref = ray.put(1)
    ref._on_ready(seen.append)

    async def wait():
        await ref._ready()
        await failing.remote()._ready()
        return "ready"

    @ray.remote
    def failing():
        raise ValueError

    assert asyncio.run(wait()) == "ready"
    assert len(seen) == 1


@ray_rs_only("Ray's libraries wrap errors like this themselves")
@pytest.mark.usefixtures("session")
def test_retries_look_through_a_wrapper(tmp_path):
    marker = tmp_path / "attempts"

    @ray.remote(max_retries=2, retry_exceptions=[KeyError])
    def wrapped():
        with marker.open("a") as file:
            file.write("x")
        if len(marker.read_text()) < 2:
            try:
                raise KeyError
            except KeyError as error:
                raise ray.exceptions.UserCodeException from error
        return 1

    assert ray.get(wrapped.remote()) == 1
