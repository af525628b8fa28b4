"""The rows: name, the family that measures it, its unit, and how many times Ray it is meant to be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    name: str
    family: str
    unit: str = "/s"
    goal: float | None = None
    lower_is_better: bool = False
    # A goal that is not a multiple of Ray: shown as it is.
    limit: float | None = None
    copy: str | None = None  # which figure of the copy probe it is held against
    disk: bool = False  # held against the disk itself
    link: bool = False  # held against what the link between nodes, and the memory behind it, can do


# Two gigabytes of zeros to a file, until they are on the disk.
DISK = "disk, dd conv=fdatasync"

ROWS = [
    Row("single client get calls", "objects", goal=30),
    Row("single client put calls", "objects", goal=85),
    Row("multi client put calls", "objects", goal=70),
    Row("single client put gigabytes", "gigabytes", "GB/s", copy="zeros, one thread"),
    Row("single client put gigabytes, source in memory", "gigabytes", "GB/s", copy="memory, one thread"),
    Row("multi client put gigabytes", "gigabytes", "GB/s", copy="new zeros, all cores"),
    Row("single client tasks and get batch", "tasks", goal=60),
    Row("single client get object containing 10k refs", "objects", goal=11),
    Row("single client wait 1k refs", "tasks", goal=30),
    Row("single client tasks sync", "tasks", goal=75),
    Row("tasks sync from 16 threads", "tasks"),
    Row("single client tasks async", "tasks", goal=75),
    Row("multi client tasks async", "tasks", goal=38),
    Row("1:1 actor calls sync", "actors", goal=35),
    Row("1:1 actor calls async", "actors", goal=28),
    Row("1:1 actor calls concurrent", "actors", goal=10),
    Row("1:n actor calls async", "actors", goal=26),
    Row("n:n actor calls async", "actors", goal=18),
    Row("n:n actor calls with arg async", "actors", goal=40),
    Row("1:1 durable actor calls sync", "durable actors"),
    Row("1:1 durable actor calls async", "durable actors"),
    Row("1:1 async-actor calls sync", "async actors", goal=12),
    Row("1:1 async-actor calls async", "async actors", goal=20),
    Row("1:1 async-actor calls with args async", "async actors", goal=20),
    Row("1:n async-actor calls async", "async actors", goal=20),
    Row("n:n async-actor calls async", "async actors", goal=20),
    Row("single client tasks sync p50", "tasks", "us", lower_is_better=True),
    Row("single client tasks sync p99", "tasks", "us", lower_is_better=True),
    Row("single client tasks sync longest", "tasks", "us", lower_is_better=True),
    Row("1:1 actor calls sync p50", "actors", "us", lower_is_better=True),
    Row("1:1 actor calls sync p99", "actors", "us", lower_is_better=True),
    Row("1:1 durable actor calls sync p50", "durable actors", "us", lower_is_better=True),
    Row("1:1 durable actor calls sync p99", "durable actors", "us", lower_is_better=True),
    Row("1:1 async-actor calls sync p50", "async actors", "us", lower_is_better=True),
    Row("1:1 async-actor calls sync p99", "async actors", "us", lower_is_better=True),
    Row("single client get calls p50", "objects", "us", lower_is_better=True),
    Row("single client put calls p50", "objects", "us", lower_is_better=True),
    Row("tasks sync after 20 ms idle p50", "tasks", "us", lower_is_better=True),
    Row("tasks sync beside two busy loops", "busy", goal=10),
    Row("tasks sync beside two busy loops p50", "busy", "us", goal=10, lower_is_better=True),
    Row("tasks sync beside two busy loops p99", "busy", "us", goal=10, lower_is_better=True, limit=10_000),
    Row("tasks sync beside two busy loops longest", "busy", "us", lower_is_better=True),
    Row("tasks sync beside two busy loops time in stalls", "busy", "% of the time", lower_is_better=True),
    Row("actor create + first call + kill", "churn", goal=60),
    Row("placement group create/removal", "placement groups", goal=20),
    Row("placement group create/removal, one by one", "placement groups", goal=6),
    Row("import", "lifecycle", "ms", goal=5, lower_is_better=True),
    Row("init", "lifecycle", "ms", goal=20, lower_is_better=True),
    Row("first task after init", "lifecycle", "ms", goal=20, lower_is_better=True),
    Row("shutdown", "lifecycle", "ms", goal=15, lower_is_better=True),
    Row("idle cluster memory", "idle", "MiB", goal=10, lower_is_better=True),
    Row("idle cluster store pages", "idle", "MiB", lower_is_better=True, limit=64),
    Row("idle cluster CPU", "idle", "% of a core", lower_is_better=True, limit=0.2),
    Row("memory of one idle actor", "memory", "KiB", goal=12, lower_is_better=True),
    Row("memory of one queued task", "memory", "B", goal=7, lower_is_better=True),
    Row("step: f.remote() in a burst", "tasks", "us", lower_is_better=True),
    Row("step: get of a result that is there", "tasks", "us", lower_is_better=True),
    Row("step: whole task, many in flight", "tasks", "us", lower_is_better=True),
    Row("get of 10k objects", "many", "ms", goal=17, lower_is_better=True),
    Row("10k object args to one task", "many", "ms", goal=19, lower_is_better=True),
    Row("3k returns", "many", "ms", goal=9, lower_is_better=True),
    Row("list_tasks(limit=100) of 100k", "listing", "ms", lower_is_better=True, limit=30),
    Row("summarize_tasks of 100k", "listing", "ms", lower_is_better=True, limit=100),
    Row("timeline of 100k to a file", "listing", "ms", lower_is_better=True, limit=2000),
    Row("first put after init, 64 MiB", "first puts", "GB/s", goal=8),
    Row("first put after init, 1 GiB", "first puts", "GB/s", goal=2),
    Row("get of 1 MiB that is mapped p50", "mapped", "us", lower_is_better=True, limit=10),
    Row("get of 64 MiB that is mapped p50", "mapped", "us", lower_is_better=True, limit=10),
    Row("get of 1 GiB that is mapped p50", "mapped", "us", lower_is_better=True, limit=10),
    Row(DISK, "spilling", "GB/s"),
    Row("spill: put beyond the store", "spilling", "GB/s", disk=True),
    Row("restore: get from disk", "spilling", "GB/s", disk=True),
]
# Measured by `make bench-cluster`.
CLUSTER_ROWS = [
    Row("tasks spread over 4 nodes", "cluster tasks", goal=20),
    Row("task on another node, sync", "cluster latency"),
    Row("task on another node, sync p50", "cluster latency", "us", lower_is_better=True),
    Row("task on another node, sync p99", "cluster latency", "us", lower_is_better=True),
    Row("transfer between two nodes", "cluster transfer", "GB/s", link=True),
    Row("broadcast to 8 nodes", "cluster broadcast", "GB/s"),
    Row(
        "broadcast to 8 nodes: sent by the source", "cluster broadcast", "times its size", lower_is_better=True, limit=2
    ),
    Row("100 nodes join", "cluster joining", "s", lower_is_better=True, limit=10),
    Row("actors over 10 nodes, created and called", "cluster actors", goal=50),
    Row("placement groups over nodes, 100 at once", "cluster groups", goal=20),
    Row("placement groups over nodes, one by one", "cluster groups", goal=6),
    Row("control store killed, 10k actors: answers", "cluster restart", "ms", lower_is_better=True, limit=1000),
    Row("client: get calls", "client", goal=10),
    Row("client: put calls", "client", goal=10),
    Row("client: tasks sync", "client"),
    Row("client: tasks sync p50", "client", "us", lower_is_better=True),
    Row("client: tasks and get batch", "client"),
    Row("client: tasks and put batch", "client", goal=10),
    Row("client: 1:1 actor calls sync", "client", goal=10),
    Row("client: 1:1 actor calls sync p50", "client", "us", lower_is_better=True),
    Row("client: 1:1 actor calls async", "client", goal=10),
    Row("client: 1:1 actor calls concurrent", "client", goal=10),
    Row("client: put gigabytes", "client", "GB/s", goal=10),
    Row("client: put gigabytes, read by a task", "client", "GB/s", goal=10),
    Row("client: get gigabytes that a task made", "client", "GB/s", goal=10),
    Row("memory of an idle raylet", "cluster raylet", "MiB", lower_is_better=True, limit=15e6 / 2**20),
]
FAMILIES = list(dict.fromkeys(row.family for row in [*ROWS, *CLUSTER_ROWS]))
