"""`working_dir` and `py_modules` on nodes that cannot see the disk they come from."""

import io
import os
import shutil
import signal
import stat
import tarfile
import zipfile

import pytest
from under_test import exceptions, ray, wait_until

LIMIT = 60


def project(tmp_path, **files):
    folder = tmp_path / "project"
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@ray.remote(num_cpus=1)
def look():
    import rrt_travelled

    names = sorted(os.path.join(folder, name) for folder, _, names in os.walk(".") for name in names)
    names = [name[2:] for name in names if not name.endswith(".pyc")]
    return rrt_travelled.NAME, os.getcwd(), names, ray.get_runtime_context().get_node_id()


def on(node, task=look, **options):
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    return task.options(scheduling_strategy=strategy, **options)


def packages_of(cluster):
    """What the control store has, as paths below its directory."""
    root = os.path.join(cluster.head_node.session_dir, "packages")
    return sorted(os.path.relpath(os.path.join(at, name), root) for at, _, names in os.walk(root) for name in names)


def join(cluster, **env):
    ray.init(address=cluster.address, logging_level="error", runtime_env=env)
    cluster.wait_for_nodes()


def test_a_directory_is_on_every_node_when_its_source_is_gone(ray_cluster, tmp_path):
    cluster = ray_cluster(nodes=3, num_cpus=1, connect=False)
    folder = project(tmp_path, rrt_travelled_dot_py="NAME = 'here'\n", data__x_dot_txt="x", data__secret_dot_key="k")
    project(tmp_path, big_dot_log="l", build__made_dot_o="", venv__lib_dot_py="", _dot_gitignore="*.log\n/build/\n")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "run.sh").chmod(0o755)
    join(cluster, working_dir=str(folder), excludes=["data/*.key"])
    shutil.rmtree(folder)

    @ray.remote(num_cpus=1)
    def run():
        return os.popen("./run.sh").read()

    found = ray.get([on(node).remote() for node in cluster.nodes], timeout=LIMIT)
    for node, (name, where, names, node_id) in zip(cluster.nodes, found, strict=True):
        assert (name, node_id) == ("here", node.node_id)
        assert where.startswith(node.session_dir + "/")
        assert names == [".gitignore", "data/x.txt", "rrt_travelled.py", "run.sh"]
        assert stat.S_IMODE(os.stat(where).st_mode) == 0o700
    assert ray.get([on(node, run).remote() for node in cluster.nodes], timeout=LIMIT) == ["ran\n"] * 3
    # Every node calls it by the same name, and has unpacked it once.
    assert len({os.path.basename(where) for _, where, _, _ in found}) == 1
    assert ray.get(on(cluster.nodes[1]).remote(), timeout=LIMIT)[1] == found[1][1]
    directory = ray.get_runtime_context().runtime_env["working_dir"]
    assert directory == f"gcs://_ray_pkg_{os.path.basename(found[0][1])}.zip"
    # One that joins later has it, too.
    late = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    assert ray.get(on(late).remote(), timeout=LIMIT)[:1] == ("here",)
    # It goes with the job; what nodes have unpacked goes with them.
    assert packages_of(cluster)
    ray.shutdown()
    wait_until(lambda: not packages_of(cluster), "the job's packages to go")
    where = found[2][1]
    assert os.path.isdir(where)
    cluster.remove_node(cluster.nodes[2])
    wait_until(lambda: not os.path.exists(where), "the node's directory to go")


def test_modules_travel_with_their_names(ray_cluster, tmp_path):
    cluster = ray_cluster(nodes=2, num_cpus=1, connect=False)
    package = tmp_path / "rrt_package"
    package.mkdir()
    (package / "__init__.py").write_text("from rrt_package.inner import NAME\n")
    (package / "inner.py").write_text("NAME = 'package'\n")
    (tmp_path / "rrt_single.py").write_text("NAME = 'file'\n")
    with zipfile.ZipFile(tmp_path / "rrt_wheeled-1.0-py3-none-any.whl", "w") as file:
        file.writestr("rrt_wheeled.py", "NAME = 'wheel'\n")
    names = ["rrt_package", "rrt_single.py", "rrt_wheeled-1.0-py3-none-any.whl"]
    join(cluster, py_modules=[str(tmp_path / name) for name in names])
    shutil.rmtree(package)

    @ray.remote(num_cpus=1)
    def modules():
        import rrt_package
        import rrt_single
        import rrt_wheeled

        return rrt_package.NAME, rrt_single.NAME, rrt_wheeled.NAME

    for node in cluster.nodes:
        assert ray.get(on(node, modules).remote(), timeout=LIMIT) == ("package", "file", "wheel")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_travels(ray_cluster, tmp_path, suffix):
    cluster = ray_cluster(nodes=2, num_cpus=1, connect=False)
    folder = project(tmp_path, rrt_travelled_dot_py="NAME = 'packed'\n", sub__x_dot_log="x", _dot_gitignore="*.log\n")
    archive = shutil.make_archive(str(tmp_path / "packed"), "gztar" if suffix == ".tar.gz" else "zip", str(folder))
    assert archive.endswith(suffix)
    join(cluster, working_dir=archive)
    os.unlink(archive)
    for node in cluster.nodes:
        name, _, names, _ = ray.get(on(node).remote(), timeout=LIMIT)
        assert (name, names) == ("packed", [".gitignore", "rrt_travelled.py", "sub/x.log"])


def test_environments_of_tasks_and_actors_and_of_what_they_start(ray_cluster, tmp_path):
    cluster = ray_cluster(nodes=2, num_cpus=2)
    folder = project(tmp_path, rrt_travelled_dot_py="NAME = 'of a task'\n")

    @ray.remote
    class Actor:
        def look(self):
            return ray.get(look.remote())

        def elsewhere(self, node):
            return ray.get(on(node).remote())

    first, second = cluster.nodes
    env = {"working_dir": str(folder)}
    actor = on(second, Actor, runtime_env=env).remote()
    assert ray.get(actor.look.remote(), timeout=LIMIT)[0] == "of a task"
    shutil.rmtree(folder)
    name, where, _, node_id = ray.get(actor.elsewhere.remote(first), timeout=LIMIT)
    assert (name, node_id) == ("of a task", first.node_id)
    assert where.startswith(first.session_dir + "/")
    with pytest.raises(exceptions.RayTaskError, match="rrt_travelled"):
        ray.get(on(first).remote(), timeout=LIMIT)


def test_a_detached_actor_keeps_its_jobs_packages(ray_cluster, tmp_path):
    cluster = ray_cluster(nodes=2, num_cpus=1, connect=False)
    folder = project(tmp_path, rrt_travelled_dot_py="NAME = 'kept'\n")

    @ray.remote(num_cpus=1, max_restarts=1)
    class Actor:
        def name(self):
            import rrt_travelled

            return rrt_travelled.NAME, os.getpid()

    ray.init(address=cluster.address, logging_level="error", namespace="kept", runtime_env={"working_dir": str(folder)})
    cluster.wait_for_nodes()
    actor = on(cluster.nodes[1], Actor, name="kept", lifetime="detached").remote()
    name, pid = ray.get(actor.name.remote(), timeout=LIMIT)
    before = packages_of(cluster)
    ray.shutdown()
    shutil.rmtree(folder)
    ray.init(address=cluster.address, logging_level="error", namespace="kept")
    wait_until(lambda: any(job["finished"] for job in jobs_of(cluster)), "the first job to end")
    assert packages_of(cluster) == before != []
    os.kill(pid, signal.SIGKILL)
    actor = ray.get_actor("kept")
    again = wait_until(lambda: answer(actor.name), "the actor to be started again")
    assert again[0] == name == "kept"
    assert again[1] != pid
    ray.kill(actor)
    wait_until(lambda: not packages_of(cluster), "the packages to go with the last that needed them")


def jobs_of(cluster):
    from ray_rs import _core

    return _core.Observer(cluster.head_node.session_dir).jobs()


def answer(method):
    """Of an actor that may be on its way."""
    try:
        return ray.get(method.remote(), timeout=LIMIT)
    except (exceptions.ActorUnavailableError, exceptions.ActorDiedError):
        return None


def test_a_large_directory_comes_in_parts(ray_cluster, tmp_path):
    cluster = ray_cluster(nodes=2, num_cpus=1, connect=False)
    folder = project(tmp_path, rrt_travelled_dot_py="NAME = 'large'\n")
    (folder / "blob").write_bytes(os.urandom(1 << 20) * 20)
    join(cluster, working_dir=str(folder))
    assert len(packages_of(cluster)) == 7  # of four MiB, and the word that they are all there

    @ray.remote(num_cpus=1)
    def blob():
        return os.stat("blob").st_size

    assert ray.get(on(cluster.nodes[1], blob).remote(), timeout=LIMIT) == 20 << 20


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_package_that_is_not_what_it_was_is_told(ray_cluster, tmp_path, harm):
    cluster = ray_cluster(nodes=2, num_cpus=1, connect=False)
    folder = project(tmp_path, rrt_travelled_dot_py="NAME = 'right'\n")
    join(cluster, working_dir=str(folder))
    (part,) = [name for name in packages_of(cluster) if name.endswith(".0")]
    path = os.path.join(cluster.head_node.session_dir, "packages", part)
    if harm == "changed":
        with open(path, "rb") as file:
            content = file.read()
        changed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
            new.writestr(old.namelist()[0], "NAME = 'wrong'\n")
        with open(path, "wb") as file:
            file.write(changed.getvalue())
    else:
        os.unlink(path)
    wanted = "does not hold what its name says" if harm == "changed" else "its job has ended"
    with pytest.raises(exceptions.RuntimeEnvSetupError, match=wanted):
        ray.get(on(cluster.nodes[1]).remote(), timeout=LIMIT)
    # The node that it comes from has it.
    assert ray.get(on(cluster.nodes[0]).remote(), timeout=LIMIT)[0] == "right"
    assert [name for name in os.listdir(cluster.nodes[1].session_dir + "/runtime_resources") if "." not in name] == []


def test_too_large_a_directory_is_refused_where_it_is_named(tmp_path):
    folder = project(tmp_path, rrt_travelled_dot_py="NAME = 1\n")
    with open(folder / "blob.bin", "wb") as file:
        file.truncate(513 << 20)  # it takes no room
    with pytest.raises(exceptions.RuntimeEnvSetupError, match=r"512 MiB that are allowed.*excludes"):
        ray.init(num_cpus=1, runtime_env={"working_dir": str(folder)})
    assert not ray.is_initialized()
    ray.init(num_cpus=1, runtime_env={"working_dir": str(folder), "excludes": ["*.bin"]})
    assert ray.get(look.remote(), timeout=LIMIT)[2] == ["rrt_travelled.py"]
    ray.shutdown()


def archive_with(tmp_path, kind):
    path = tmp_path / f"{kind}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo({"up": "../outside", "absolute": "/tmp/outside"}.get(kind, "inside"))
        if kind == "link":
            entry.type, entry.linkname = tarfile.SYMTYPE, "../../outside"
            tar.addfile(entry)
        elif kind == "bomb":
            entry.size = 600 << 20
            tar.addfile(entry)  # what it says is enough
        else:
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
    return path


@pytest.mark.parametrize("kind", ["up", "absolute", "link", "bomb"])
def test_archives_that_lead_outside_or_hold_too_much(tmp_path, kind):
    words = {"link": "is a link", "bomb": "are allowed"}.get(kind, "outside of it")
    with pytest.raises(exceptions.RuntimeEnvSetupError, match=words):
        ray.init(num_cpus=1, runtime_env={"working_dir": str(archive_with(tmp_path, kind))})
    assert not ray.is_initialized()


def test_a_package_that_nobody_has(ray_cluster):
    ray_cluster(nodes=1, num_cpus=1)
    address = f"gcs://_ray_pkg_{'0' * 32}.zip"
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="is not in this cluster"):
        look.options(runtime_env={"working_dir": address}).remote()
