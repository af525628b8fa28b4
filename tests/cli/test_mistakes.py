"""What somebody gets to read who has typed something that makes no sense, or has no right to a place."""

import socket

import pytest
import traces
from under_test import command, ray, ray_rs_only, run_command, run_driver

pytestmark = [pytest.mark.usefixtures("no_cluster"), ray_rs_only("ray_rs has its own program")]

HEAD = ("start", "--head", "--port=0", "--dashboard-port=0")


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["--num-cpus=-3"], "'-3' is no whole number from 0 up", 2),
        (["--num-gpus=two"], "'two' is no whole number", 2),
        (["--memory=-5"], "'-5' is no whole number", 2),
        (["--object-store-memory=10"], "the minimum allowed is", 1),
        (["--object-store-memory=9000000000000000"], "this machine has", 1),
        (['--resources={"a": -1}'], "Violated by resource 'a'", 1),
        (["--resources=a=nan"], "Violated by resource 'a'", 1),
        (["--resources=CPU=2"], "Use `num_cpus`", 1),
        (["--port=99999"], "'99999' is no port: those are 0 to 65535", 2),
        (["--dashboard-port=-1"], "'-1' is no port", 2),
        (["--ray-client-server-port=x"], "'x' is no port", 2),
        (["--token-file=/no/such/file"], "There is no token in /no/such/file: it is no file.", 1),
        (["--object-spilling-directory=/no/such/directory"], "is no directory: /no/such/directory", 1),
    ],
)
def test_a_head_of_impossible_things_is_not_started(arguments, words, status):
    assert words in command(*HEAD, *arguments, status=status)
    assert not traces.processes() and not traces.session_files()


@pytest.mark.parametrize("place", ["/proc/nothing", __file__])
def test_no_place_for_a_session(place):
    text = command(*HEAD, status=1, RAY_RS_TMPDIR=place)
    assert place in text and "RAY_RS_TMPDIR" in text
    done = run_driver("ray.init()", check=False, env={"RAY_RS_TMPDIR": place})
    assert done.returncode == 1
    assert "cannot make a session directory" in done.stderr and "name a directory there" in done.stderr


@pytest.fixture
def head():
    command(*HEAD, "--num-cpus=1")
    yield
    command("stop")


def test_files_that_cannot_be_written_and_ports_that_are_taken(head, tmp_path):
    assert "No such file or directory: '/no/such/trace'" in command("timeline", "-o", "/no/such/trace", status=1)
    assert "Is a directory" in command("timeline", "-o", str(tmp_path), status=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = command("metrics", "--serve", str(taken.getsockname()[1]), status=1)
    assert text.startswith("Error: ") and "Address already in use" in text
    assert "'99999' is no port" in command("metrics", "--serve=99999", status=2)


def test_no_file_is_left_where_no_session_answers(tmp_path):
    path = tmp_path / "trace.json"
    assert "Could not find any running" in command("timeline", "-o", str(path), status=1)
    assert not path.exists()


def test_slips_in_a_program_are_told_with_what_was_meant():
    with pytest.raises(RuntimeError, match=r"^Unknown keyword argument\(s\): num_cpu\. Did you mean num_cpus\?$"):
        ray.init(num_cpu=1)
    with pytest.raises(RuntimeError, match=r"^Unknown keyword argument\(s\): xyzzy$"):
        ray.init(xyzzy=1)
    assert not ray.is_initialized()
    done = run_driver("""
        for name in ("workingdir", "env_var", "a_plugin", "nsigth"):
            ray.runtime_env.RuntimeEnv(**{name: "x"})
        ray.runtime_env.RuntimeEnv(env_vars={"workingdir": "x"})
    """)
    lines = [line for line in done.stderr.splitlines() if "nobody knows" in line]
    assert [line.rpartition("ignored.")[2] for line in lines] == [
        " Did you mean working_dir?",
        " Did you mean env_vars?",
    ]


def test_numbers_of_pictures_and_processes(head):
    assert "is no whole number" in command("top", "-n", "-1", status=2)
    done = run_command("stack", "1", status=1)
    assert (done.stdout, done.stderr) == ("", "Error: there is no worker with pid 1.\n")
