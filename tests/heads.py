"""Heads that `ray_rs start` starts, as somebody sees them who speaks HTTP."""

import contextlib
import http.client
import json
import os
import re

from under_test import contents, run_command


def command(*arguments, status=0, **environment):
    """Runs `ray_rs` and returns what it prints, on stderr if that says something."""
    done = run_command(*arguments, status=status, **environment)
    return done.stdout + done.stderr


class Service:
    """The web service of a session."""

    def __init__(self, directory):
        self.directory = directory
        self.web = contents(f"{directory}/dashboard_address").strip()
        self.key = command("get-auth-token", f"--address={directory}").strip()

    def request(self, method, path, body=None, host=None, key=..., **headers):
        """Status and text of an answer; `key` None: none is shown."""
        return self.answer(method, path, body, host, key, **headers)[:2]

    def answer(self, method, path, body=None, host=None, key=..., **headers):
        """The same, and the answer's headers."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if host is not None:
            sent["Host"] = host
        if key is not None:
            sent["Authorization"] = f"Bearer {self.key if key is ... else key}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        with contextlib.closing(http.client.HTTPConnection(self.web, timeout=30)) as connection:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers

    def fetched(self, path):
        """The JSON of an answer."""
        status, text = self.request("GET", path)
        assert status == 200, text
        return json.loads(text)


class Head(Service):
    """A head that `ray_rs start` has started."""

    def __init__(self, *arguments, **environment):
        text = command("start", "--head", "--port=0", "--dashboard-port=0", "--num-cpus=2", *arguments, **environment)
        (self.address,) = re.findall(r"--address=(\S+)", text)
        (token,) = re.findall(r"^\s+(/\S+/token)$", text, re.MULTILINE)
        super().__init__(os.path.dirname(token))
