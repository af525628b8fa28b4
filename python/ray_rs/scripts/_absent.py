"""Commands of Ray's that are not there, and what to do instead. They are no part of the help, nor completed."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ABSENT", "NEEDLESS", "why_absent"]

_LAUNCHER = "it is of Ray's cluster launcher, which logs in to machines of a cloud"

# Why, and what there is.
ABSENT = {
    "up": (_LAUNCHER, "start a head that starts nodes by any command: ray_rs start --head --autoscaling-config=FILE"),
    "down": (_LAUNCHER, "ray_rs stop on the head's machine ends the nodes that it has started"),
    "attach": (_LAUNCHER, "log in to the head's machine, or connect a program to it: ray.init('ray://HOST:PORT')"),
    "exec": (_LAUNCHER, "ray_rs job submit -- CMD runs a command on a cluster"),
    "submit": (_LAUNCHER, "ray_rs job submit --working-dir . -- python SCRIPT"),
    "rsync-up": (_LAUNCHER, "job submit --working-dir DIR, or runtime_env={'working_dir': DIR}, takes files along"),
    "rsync-down": (_LAUNCHER, "tasks return what is to come back; ray_rs logs --node-id=ID shows a node's logs"),
    "monitor": (
        _LAUNCHER,
        "ray_rs status tells of nodes that are coming, and what has failed; ray_rs logs has the rest",
    ),
    "get-head-ip": (_LAUNCHER, "ray_rs list nodes shows the nodes, and which of them is the head"),
    "get-worker-ips": (_LAUNCHER, "ray_rs list nodes shows the nodes"),
    "cluster-dump": (
        "nothing logs in to the machines of a cluster",
        "ray_rs logs --node-id=ID, ray_rs doctor and ray_rs.performance_report() say what there is to know",
    ),
    "local-dump": (
        "logs are where they are written",
        "they lie in session_latest/logs under RAY_RS_TMPDIR; ray_rs logs lists them",
    ),
    "kuberay-autoscaler": ("nodes of Kubernetes are started by commands", "docs/deployment.md says how"),
    "cpp": ("there is no C++ API", "tasks and actors are written in Python"),
    "enable-usage-stats": ("no usage is told to anybody", "nothing"),
}

# What scripts may ask for, and is so.
NEEDLESS = {"disable-usage-stats": "No usage is told to anybody: there is nothing to disable."}


def why_absent(words: Sequence[str]) -> str:
    """What to say about a command line.

    Args:
        words: What follows the program's name.

    Returns:
        The reason, and what there is instead; empty: the command is none of these.
    """
    if not words or words[0] not in ABSENT:
        return ""
    reason, instead = ABSENT[words[0]]
    return f"There is no `{words[0]}` here: {reason}. Instead: {instead}."
