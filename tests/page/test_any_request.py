"""Whatever is asked of the REST interface, within its description or beyond, is answered as that says."""

import contextlib
import http.client
import json
import re
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from under_test import ray

pytestmark = pytest.mark.ray_rs_only("Ray's dashboard is another program")

PROFILE = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)

# Numbers and texts that something might choke on, besides any others.
NUMBERS = st.integers(-(2**70), 2**70) | st.sampled_from([0, -1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64])
TEXTS = st.text(max_size=40) | st.sampled_from(
    ["", "..", "../../etc/passwd", "%00", "\0", "a" * 3000, "é" * 300, "tasks", "raylet.log", "0" * 56, "0" * 48, "zz"]
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OF_KIND = {
    "integer": NUMBERS.map(str) | TEXTS,
    "number": st.floats().map(str) | TEXTS,
    "boolean": st.sampled_from(["true", "false", "1", ""]) | TEXTS,
    "string": TEXTS,
}
# What would begin something: those who submit jobs do that on purpose.
BEGINS = {"entrypoint": st.just("") | NUMBERS | st.lists(TEXTS, max_size=1)}

# Paths whose parameters have few values that are any good.
KNOWN = {
    "/api/page/{part}": ["tasks", "timeline", "why", "files", "log", "worker_log", "search"],
    "/api/v0/{kind}": ["tasks", "actors", "nodes", "objects", "workers", "jobs", "placement_groups", "logs"],
    "/api/v0/{kind}/summarize": ["tasks", "actors", "objects"],
}


@st.composite
def requests(draw, path, about):
    """A target, a body, and headers, of one route."""
    query = []
    asked = path
    for parameter in about["parameters"]:
        name = parameter["name"]
        if parameter["in"] == "path":
            known = st.sampled_from(KNOWN[path]) if path in KNOWN else st.nothing()
            value = draw(known | TEXTS.filter(lambda text: text not in ("", ".", "..")))
            asked = asked.replace(f"{{{name}}}", quote(value, safe=""))
        elif draw(st.booleans()):
            query.append((name, draw(OF_KIND[parameter["schema"]["type"]])))
    if draw(st.integers(0, 9)) == 0:
        query.append((draw(TEXTS), draw(TEXTS)))
    target = f"{asked}?{urlencode(query)}" if query else asked
    body = None
    if "requestBody" in about:
        (media,) = about["requestBody"]["content"]
        if media == "application/json":
            fields = about["requestBody"]["content"][media]["schema"]["properties"]
            made = {
                name: draw(BEGINS.get(name, JSON)) for name in sorted(fields) if draw(st.booleans()) or name in BEGINS
            }
            wrong = st.binary(max_size=40) | JSON.filter(lambda value: not isinstance(value, dict)).map(encoded)
            body = draw(st.just(encoded(made)) | wrong)
        else:
            body = draw(st.binary(max_size=100))
    elif draw(st.integers(0, 4)) == 0:
        body = draw(st.binary(max_size=40))
    return target, body


def encoded(value):
    return json.dumps(value).encode()


def described(head):
    for path, methods in head.fetched("/api/openapi.json")["paths"].items():
        for method, about in methods.items():
            codes = set(about["responses"])
            # What never ends is another test's.
            if "101" not in codes and "text/event-stream" not in about["responses"].get("200", {}).get("content", ()):
                yield path, method.upper(), about


@pytest.mark.timeout(300)
def test_every_answer_is_one_that_is_described(head):
    ray.init(address=head.address, log_to_driver=False)
    ray.get(ray.remote(lambda: 1).remote())
    before = {path for path, *_ in described(head)}
    assert len(before) > 15
    for path, method, about in described(head):

        @PROFILE
        @given(requests(path, about))
        def ask(request):
            check(head, path, method, about["responses"], *request)

        ask()
    assert head.request("GET", "/api/healthz")[0] == 200
    # Nothing has begun.
    assert [job for job in head.fetched("/api/jobs/") if job["type"] == "SUBMISSION"] == []
    log = logs_of(head)
    assert not re.search(r"Traceback|panicked", log), log[-3000:]


def check(head, path, method, answers, target, body):
    with contextlib.closing(http.client.HTTPConnection(head.web, timeout=40)) as connection:
        connection.request(method, target, body, {"Authorization": f"Bearer {head.key}"})
        response = connection.getresponse()
        text = response.read()
    said = answers.get(str(response.status))
    assert said is not None, (method, target, body, response.status, text[:300])
    content = said.get("content")
    if response.status >= 400:
        # A reason for people, that tells nothing of the inside.
        assert text.strip() and b"Traceback" not in text and b"panicked" not in text, (target, text)
    elif content and path not in ("/", "/page/{file}"):
        (media,) = content
        assert response.headers["Content-Type"].partition(";")[0] == media.partition(";")[0], target
        if media == "application/json":
            json.loads(text, parse_constant=lambda word: pytest.fail(f"{target}: {word} is no JSON"))


def logs_of(head):
    from pathlib import Path

    return "".join(
        path.read_text(errors="replace")
        for path in Path(head.directory, "logs").iterdir()
        if re.match(r"(web|gcs|raylet)", path.name)
    )
