"""What the page is made of and asks for, over HTTP, against what the state API says; and who gets none of it."""

import contextlib
import http.client
import json
import os
import re
import socket
import time
from urllib.parse import quote, urlencode

import pytest
from heads import command
from page.conftest import LINE, eventually
from ray_rs.util import state
from under_test import contents, ray, wait_until

pytestmark = pytest.mark.ray_rs_only("Ray's dashboard is another program")

SECTIONS = ("actors", "groups", "jobs", "logs", "nodes", "objects", "tasks", "workers")


class Listener:
    """Reads the stream of events, and keeps rows as the page does."""

    def __init__(self, head, sections):
        self.connection = http.client.HTTPConnection(head.web, timeout=30)
        self.connection.request(
            "GET", f"/api/page/events?sections={sections}", headers={"Authorization": f"Bearer {head.key}"}
        )
        self.response = self.connection.getresponse()
        self.rows = {}
        self.news = []

    def __enter__(self):
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"] == "text/event-stream"
        return self

    def __exit__(self, *_):
        self.connection.close()

    def next(self):
        """The next thing that is said."""
        while True:
            line = self.response.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data:"):
                break
        news = json.loads(line[5:])
        assert "trouble" not in news, news
        rows = {} if news["all"] else self.rows[news["section"]]
        for key in news["gone"]:
            del rows[key]
        rows.update(news["set"])
        self.rows[news["section"]] = rows
        self.news.append(news)
        return news

    def until(self, holds):
        """Listens until something holds of the rows."""
        while not holds(self.rows):
            self.next()
        return self.rows


def part(head, name, **words):
    return head.fetched(f"/api/page/{name}?{urlencode(words)}")


# ---------------------------------------------------------------------------------------------------------- who gets in


def test_the_files_are_there_for_everybody_and_nothing_else_is(head):
    status, text, headers = head.answer("GET", "/", key=None)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', text):
        assert head.request("GET", path, key=None)[0] == 200, path
    # Nothing comes from elsewhere.
    assert "://" not in re.sub(r"http://www\.w3\.org", "", text)
    tag = headers["ETag"]
    assert head.request("GET", "/", key=None, If_None_Match=tag) == (304, "")
    for path in (
        "/page/",
        "/page/absent.js",
        "/page/..%2f..%2fapi.py",
        "/page/%2e%2e/_web.py",
        "/page/%00",
        "/page/a%2fb",
    ):
        assert head.request("GET", path, key=None)[0] == 404, path
    assert head.request("GET", "/../../../etc/passwd", key=None)[0] == 401
    assert head.request("GET", "/", key=None, host="evil.example")[0] == 403
    assert head.request("GET", "/", key=None, Origin="http://evil.example")[0] == 403
    assert head.request("POST", "/", key=None)[0] == 401
    assert head.request("POST", "/")[0] == 405


def test_what_the_page_asks_for_needs_the_key(head):
    asked = [
        ("GET", "/api/page/events?sections=jobs"),
        ("GET", "/api/page/tasks"),
        ("GET", "/api/page/log?file=gcs.log"),
        ("GET", "/api/page/search?text=a"),
        ("POST", "/api/page/stack"),
        ("POST", "/api/page/flame"),
        ("POST", "/page/session"),
    ]
    for method, path in asked:
        assert head.request(method, path, key=None)[0] == 401, path
        assert head.request(method, path, key="0" * 64)[0] == 403, path
        assert head.request(method, path, host="evil.example:80")[0] == 403, path
        assert head.request(method, path, Origin="http://evil.example")[0] == 403, path
        assert head.request(method, path, Origin="null")[0] == 403, path
        # A page on another port of this host: its cookies would be ours.
        assert head.request(method, path, Sec_Fetch_Site="same-site")[0] == 403, path
        assert head.request(method, path, Sec_Fetch_Site="cross-site")[0] == 403, path


def test_the_key_is_exchanged_for_a_cookie(head):
    status, _, headers = head.answer("POST", "/page/session")
    assert status == 204
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(attributes)
    name, _, _ = cookie.partition("=")
    assert name.endswith(head.web.rpartition(":")[2])
    assert head.request("GET", "/api/version", key=None, Cookie=cookie)[0] == 200
    assert head.request("GET", "/api/version", key=None, Cookie=f"other=1; {cookie}")[0] == 200
    assert head.request("GET", "/api/version", key=None, Cookie=f"{name}=x")[0] == 403
    assert head.request("GET", "/api/version", key=None, Cookie=cookie, Origin="http://evil.example")[0] == 403


def test_the_address_that_lets_a_browser_in(head):
    url = command("dashboard", f"--address={head.directory}").strip()
    assert url == f"http://{head.web}/#key={head.key}"


# --------------------------------------------------------------------------------------------------------------- events


def test_the_stream_has_what_the_state_api_says(head, busy):
    def living():
        return {row.worker_id for row in state.list_workers(filters=[("is_alive", "=", True)])}

    with Listener(head, ",".join(SECTIONS)) as listener:
        rows = listener.until(lambda rows: len(rows) == len(SECTIONS))
        actor = rows["actors"][busy.counter._actor_id.hex()]
        (told,) = state.list_actors(filters=[("actor_id", "=", busy.counter._actor_id.hex())], detail=True)
        assert {name: told[name] for name in actor} == actor
        assert rows["groups"][busy.group.id.hex()]["state"] == "CREATED"
        nodes = {key: row for key, row in rows["nodes"].items() if key not in ("waiting", "store")}
        (node,) = state.list_nodes()
        assert nodes[node.node_id]["node_ip"] == node.node_ip
        assert nodes[node.node_id]["resources_total"]["CPU"] == 2
        # As of the node's last heartbeat.
        listener.until(lambda rows: rows["nodes"][node.node_id]["resources_available"]["CPU"] == 1)
        assert any("'CPU': 64" in line for line in rows["nodes"]["waiting"]["demands"])
        assert set(rows["jobs"]) == {row.job_id for row in state.list_jobs()}
        listener.until(lambda rows: set(rows["workers"]) == living())
        (process,) = [row for row in rows["workers"].values() if row["pid"] == busy.counter_pid]
        assert process["actor"] == "Counter"
        large = [row for key, row in rows["objects"].items() if key.startswith(busy.large.hex())]
        assert [row["place"] for row in large] == ["arena"]
        assert "conftest.py" in large[0]["call_site"]
        site = rows["objects"][""]["sites"][large[0]["call_site"]]
        assert site["bytes"] >= 5 << 20
        assert {"gcs.log", "raylet.log", "dashboard.log"} <= set(rows["logs"])


def test_tasks_sum_up_as_the_state_api_says(head, busy):
    with Listener(head, "tasks") as listener:
        rows = listener.until(lambda rows: "tasks" in rows)["tasks"]
    totals = rows.pop("")
    assert totals["dropped"] == 0
    told = state.summarize_tasks()["cluster"]["summary"]
    ours = {}
    for row in rows.values():
        counts = {"FINISHED": row["finished"], "FAILED": row["failed"], **row["states"]}
        ours[row["name"]] = {word: count for word, count in counts.items() if count}
    assert ours == {name: row["state_counts"] for name, row in told.items()}
    (quick,) = [row for row in rows.values() if row["name"].endswith("quick")]
    assert quick["ran"] == 300
    assert 0 < quick["run_us"] / 300 <= quick["longest_us"]


def test_what_changes_is_told_and_nothing_else(head, busy):
    with Listener(head, "actors,groups") as listener:
        listener.until(lambda rows: len(rows) == 2)
        before = len(listener.news)
        group = ray.util.placement_group([{"CPU": 1}], name="another")
        ray.get(group.ready(), timeout=20)
        listener.until(lambda rows: rows["groups"].get(group.id.hex(), {}).get("state") == "CREATED")
        ray.util.remove_placement_group(group)
        listener.until(lambda rows: rows["groups"].get(group.id.hex(), {"state": "REMOVED"})["state"] == "REMOVED")
        said = listener.news[before:]
        assert said
        for news in said:
            assert (news["section"], news["all"]) == ("groups", False)
            assert set(news["set"]) | set(news["gone"]) == {group.id.hex()}


def test_sections_that_do_not_exist(head):
    for sections in ("", "nonsense", "jobs,nonsense", "x" * 5000):
        status, text = head.request("GET", f"/api/page/events?sections={sections}")
        assert status == 400
        assert "there are actors, groups" in text


def test_nothing_is_looked_at_when_nobody_looks(head, busy):
    """Nor after somebody who went without a word, and one who reads nothing."""
    host, _, port = head.web.rpartition(":")

    def asked():
        """How often the service's process has written anything; each question to its raylet is such a time."""
        for pid in os.listdir("/proc"):
            if pid.isdigit():
                words = contents(f"/proc/{pid}/cmdline").split("\0")
                if "from ray_rs import _web\n_web.main(sys.argv[2])\n" in "".join(words) and head.directory in words:
                    return int(re.search(r"syscw: (\d+)", contents(f"/proc/{pid}/io"))[1])
        raise AssertionError("no service")

    with Listener(head, "jobs"):
        pass
    request = f"GET /api/page/events?sections=objects,tasks,actors HTTP/1.1\r\nHost: {head.web}\r\n"
    request += f"Authorization: Bearer {head.key}\r\n\r\n"
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(request.encode())
        assert gone.recv(100).startswith(b"HTTP/1.1 200")
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with Listener(head, "groups") as listener:
        listener.until(lambda rows: "groups" in rows)

    def is_quiet():
        before = asked()
        # A look a second would be seen.
        time.sleep(1.5)
        return asked() - before <= 3

    wait_until(is_quiet, "the service to be quiet", 20)


def test_a_reader_that_does_not_read_is_dropped_and_others_go_on(head, busy):
    host, _, port = head.web.rpartition(":")
    request = f"GET /api/page/events?sections=logs,workers,objects HTTP/1.1\r\nHost: {head.web}\r\n"
    request += f"Authorization: Bearer {head.key}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            lazy = stack.enter_context(socket.create_connection((host, int(port))))
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            lazy.sendall(request.encode())
        with Listener(head, "jobs") as listener:
            listener.until(lambda rows: "jobs" in rows)
        assert head.request("GET", "/api/version")[0] == 200


# ---------------------------------------------------------------------------------------------------------------- parts


def test_tasks_come_in_pages(head, busy):
    first = part(head, "tasks", limit=50)
    rows = state.list_tasks(limit=10_000, detail=True)
    assert first["total"] == len(rows)
    seen = []
    for offset in range(0, first["total"], 50):
        seen += part(head, "tasks", limit=50, offset=offset)["rows"]
    told = {(row.task_id, row.attempt_number): (row.name, row.state) for row in rows}
    assert {(row["task_id"], row["attempt_number"]): (row["name"], row["state"]) for row in seen} == told
    assert len(seen) == len(told)
    failed = part(head, "tasks", state="FAILED")["rows"]
    assert [row["name"].rpartition(".")[2] for row in failed] == ["broken"]
    assert "broken on purpose" in failed[0]["error_message"]
    running = part(head, "tasks", state="RUNNING")["rows"]
    assert [row["name"].rpartition(".")[2] for row in running] == ["waits_at_the_gate"]
    assert part(head, "tasks", search="QUICK", limit=1)["total"] == 300
    assert part(head, "tasks", search=failed[0]["task_id"])["rows"] == failed
    assert part(head, "tasks", offset=10**9)["rows"] == []


def test_the_timeline_is_as_large_as_the_screen(head, busy):
    chart = part(head, "timeline", columns=100)
    assert chart["records"] >= 300
    assert chart["first_us"] <= chart["last_us"]
    for row in chart["rows"]:
        assert 0 < len(row["cells"]) <= 100
        assert all(column >= 0 and column + width <= 100 for column, width, *_ in row["cells"])
    assert "waits_at_the_gate" in [task["name"].rpartition(".")[2] for task in chart["running"]]
    names = {chart["names"][cell[2]] for row in chart["rows"] for cell in row["cells"]}
    assert any(name.endswith("quick") for name in names)
    nothing = part(head, "timeline", from_us=1, to_us=2)
    assert (nothing["records"], nothing["rows"]) == (0, [])


def test_logs_are_read_and_searched(head, busy):
    found = eventually(lambda: part(head, "search", text=LINE.upper())["found"], "line in the logs")
    (line,) = [each for each in found if each["text"] == LINE]
    assert line["file"].startswith("worker-")
    piece = part(head, "log", file=line["file"], offset=line["offset"])
    assert piece["text"].startswith(LINE)
    whole = contents(f"{head.directory}/logs/{line['file']}")
    assert part(head, "log", file=line["file"])["text"] == whole
    assert part(head, "search", text=LINE, file="gcs.log")["found"] == []
    name = "binary.log"
    with open(f"{head.directory}/logs/{name}", "wb") as file:
        file.write(b"\xff\xfe no text " + bytes(range(256)) + b"x" * 600_000)
    assert "no text" in part(head, "log", file=name, offset=0)["text"]
    piece = part(head, "log", file=name, offset=0)
    assert 0 < piece["next"] < piece["bytes"]
    os.unlink(f"{head.directory}/logs/{name}")
    for file in ("../token", "..", "", "/etc/passwd", "a/b", "absent.log", "x" * 5000, "\0"):
        status, text = head.request("GET", f"/api/page/log?{urlencode({'file': file})}")
        assert (status, text.startswith("There is no log file")) == (400, True), file


def test_why_and_stacks(head, busy):
    task = busy.waiting.task_id().hex()
    told = part(head, "why", id=task)["why"]
    assert "'too_large' waits for a worker" in told
    assert "{CPU: 62} is missing" in told
    node = ray.get_runtime_context().get_node_id()
    running = part(head, "tasks", state="RUNNING")["rows"][0]
    whose = {"pid": running["worker_pid"], "node_id": running["node_id"]}
    status, text = head.request("POST", "/api/page/stack", whose)
    assert status == 200, text
    assert "waits_at_the_gate" in text
    assert "in main" in text
    # Again, and another's; each is its own.
    assert "waits_at_the_gate" in head.request("POST", "/api/page/stack", whose)[1]
    status, text = head.request("POST", "/api/page/flame", {**whose, "seconds": 0.2})
    assert status == 200, text
    rows = json.loads(text)["rows"]
    assert rows[0][:2] == [0, 0] and rows[0][3] == f"process {whose['pid']}"
    for (below, left, samples, name), after in zip(rows, [*rows[1:], [0, 0, 0, ""]], strict=True):
        assert samples > 0 and left + samples <= rows[0][2] and name
        assert after[0] <= below + 1
    assert any("waits_at_the_gate" in row[3] for row in rows)
    for wrong in (0, -1, 61, True, "long", None, [1]):
        status, text = head.request("POST", "/api/page/flame", {**whose, "seconds": wrong})
        assert (status, "seconds must be" in text) == (400, True), text
    status, text = head.request("POST", "/api/page/stack", {"pid": busy.counter_pid, "node_id": node})
    assert status == 200
    assert "waits_at_the_gate" not in text
    assert ray.get(busy.counter.process.remote()) == busy.counter_pid
    for whose, words in (
        ({"pid": 1, "node_id": node}, "no worker with pid 1"),
        ({"pid": os.getpid(), "node_id": "00"}, "no worker"),
        ({"pid": "1", "node_id": node}, "named by its pid"),
        ({}, "named by its pid"),
        ([], "JSON object"),
    ):
        status, text = head.request("POST", "/api/page/stack", whose)
        assert (status, words in text) == (400, True), (whose, text)
    # A driver has no such handler, and is not harmed.
    status, text = head.request("POST", "/api/page/stack", {"pid": os.getpid(), "node_id": node})
    assert (status, "shows no stacks" in text) == (503, True)


def test_bad_questions(head):
    for path, words in (
        ("nonsense", "There is no 'nonsense'"),
        ("tasks?limit=-1", "must be a number"),
        ("tasks?offset=x", "must be a number"),
        (f"tasks?offset={'9' * 30}", "must be a number"),
        ("why?id=zz", "is no id"),
        ("why", "is no id"),
        ("search", "a text to search for"),
        ("tasks?" + "&".join(f"a{n}=1" for n in range(100)), "Max number of fields"),
    ):
        status, text = head.request("GET", f"/api/page/{path}")
        assert (status, words in text) == (400, True), (path, text)
    assert head.request("GET", f"/api/page/tasks?search={quote('%_' * 1000)}")[0] == 200
    assert head.request("GET", "/api/page/tasks?search=" + "x" * 500_000)[0] in (414, 431)
    assert head.request("DELETE", "/api/page/tasks")[0] == 405
    assert head.request("POST", "/api/page/stack", b"x" * (5 << 20))[0] == 413


# ---------------------------------------------------------------------------------------------------------- description


def test_the_description_is_one_and_true(head, busy):
    """Every route that is described answers as described, and what is not described is not there."""
    from openapi_spec_validator import OpenAPIV31SpecValidator

    described = head.fetched("/api/openapi.json")
    OpenAPIV31SpecValidator(described).validate()
    assert head.request("GET", "/api/openapi.json", key=None)[0] == 401
    node = ray.get_runtime_context().get_node_id()
    known = {
        "/page/{file}": {"file": ["main.js"]},
        "/api/page/{part}": {"part": ["tasks", "timeline"]},
        "/api/v0/{kind}": {
            "kind": ["tasks", "actors", "nodes", "objects", "workers", "jobs", "placement_groups", "logs"]
        },
        "/api/v0/{kind}/summarize": {"kind": ["tasks", "actors", "objects"]},
        "/nodes/{id}": {"id": [node]},
    }
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            (status,) = [code for code in about["responses"] if code < "400"]
            expected = about["responses"][status].get("content")
            names = re.findall(r"{(\w+)}", path)
            values = known.get(path, {name: ["absent"] for name in names})
            for value in values[names[0]] if names else [None]:
                asked = path if value is None else path.replace(f"{{{names[0]}}}", value).replace("{name}", "absent")
                if "text/event-stream" in (expected or ()) or status == "101":
                    continue
                answered, text, headers = head.answer(method.upper(), asked)
                documented = about["responses"].get(str(answered))
                assert documented, (method, asked, answered, text[:200])
                assert not text.startswith("There is nothing at"), asked
                if path in known or (method == "get" and not names):
                    assert str(answered) == status, (asked, text[:200])
                if answered < 300 and expected and path not in ("/", "/page/{file}"):
                    (media,) = expected
                    assert headers["Content-Type"].split(";")[0] == media.split(";")[0], asked
    for path in ("/api", "/api/tasks", "/api/page", "/api/v1/tasks", "/openapi.json"):
        assert head.request("GET", path)[0] == 404, path
