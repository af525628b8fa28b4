"""Completions: what each shell offers is what the parser takes."""

import shutil
import subprocess
from pathlib import Path

import pytest
from under_test import command, ray_rs_only

pytestmark = ray_rs_only("ray_rs has its own program")

# What stands at the prompt, and what must and what must not be offered.
CASES = [
    ("", {"status", "list", "job", "completion", "drain-node"}, {"submit", "tasks", "--limit"}),
    ("st", {"status", "start", "stop", "stack"}, {"list"}),
    ("list ", {"tasks", "actors", "placement-groups"}, {"status"}),
    ("list tasks --fo", {"--format"}, {"--filter"}),
    ("list tasks --format ", {"json", "yaml", "table", "default"}, {"tasks"}),
    ("list tasks --format js", {"json"}, {"yaml"}),
    ("list --limit 3 ta", {"tasks"}, {"nodes"}),
    ("job ", {"submit", "logs", "stop"}, {"status-of", "list-of", "tasks"}),
    ("job submit --no", {"--no-wait"}, {"--format"}),
    ("job logs --fol", {"--follow"}, {"--no-wait"}),
    ("completion ", {"bash", "zsh", "fish"}, set()),
]


def script(tmp_path: Path, shell: str) -> str:
    path = tmp_path / f"completion.{shell}"
    path.write_text(command("completion", shell))
    return str(path)


def shell_output(*arguments: str) -> list[str]:
    if shutil.which(arguments[0]) is None:
        pytest.skip(f"there is no {arguments[0]}")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.splitlines()


def check(offered: dict[str, list[str]]) -> None:
    for line, wanted, unwanted in CASES:
        words = set(offered[line])
        assert wanted <= words, (line, words)
        assert not unwanted & words, (line, words)


def test_bash(tmp_path):
    path = script(tmp_path, "bash")
    offered = {}
    for line, _, _ in CASES:
        words = ["ray_rs", *line.split(" ")]
        quoted = " ".join(f"'{word}'" for word in words)
        body = f"source {path}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _ray_rs; "
        offered[line] = shell_output("bash", "--norc", "-c", body + 'printf "%s\\n" "${COMPREPLY[@]}"')
    check(offered)
    # As bash splits --format=js.
    body = f"source {path}; COMP_WORDS=(ray_rs status --format = js); COMP_CWORD=4; _ray_rs; "
    assert shell_output("bash", "--norc", "-c", body + 'echo "${COMPREPLY[@]}"') == ["json"]


def test_zsh(tmp_path):
    path = script(tmp_path, "zsh")
    offered = {}
    for line, _, _ in CASES:
        words = ["ray_rs", *line.split(" ")]
        quoted = " ".join(f"'{word}'" for word in words)
        # What zsh itself would do with the words: those that begin with what is there.
        stubs = (
            'compdef() { : }; _files() { : }; _describe() { local each; for each in "${(@P)2}"; do '
            'each="${each%%:*}"; [[ $each == "${words[CURRENT]}"* ]] && print -r -- "$each"; done; true }; '
        )
        body = f"{stubs} source {path}; words=({quoted}); CURRENT={len(words)}; _ray_rs"
        offered[line] = shell_output("zsh", "-f", "-c", body)
    check(offered)


def test_fish(tmp_path):
    path = script(tmp_path, "fish")
    offered = {}
    for line, _, _ in CASES:
        body = f"source {path}; complete -C 'ray_rs {line}'"
        offered[line] = [found.partition("\t")[0] for found in shell_output("fish", "--no-config", "-c", body)]
    check(offered)


def test_a_shell_that_is_not_known():
    assert "invalid choice: 'tcsh' (choose from bash, zsh, fish)" in command("completion", "tcsh", status=2)
