"""An index of the words in Python's own standard library.

* One task per group of files reads them, takes names apart into words, and counts; `ray.wait` takes the results as they
  come in, while an actor tracks progress.
* The partial indexes are merged by a tree of tasks: references go from task to task, the driver never sees the data.
* A matrix of which file uses which word lies in shared memory once; the tasks that compare files read it in place.

The same is then done without Ray, to see what it buys, and a batch of empty tasks shows what a single call costs.

    python examples/quickstart.py [number of files]
"""

import os
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray_rs as ray

T = TypeVar("T")
# Words, the files that they are in, and the name of most words: how many, the name, its line, its file.
Index = tuple[Counter[str], Counter[str], tuple[int, str, int, str]]
Likeness = list[tuple[int, int, float]]

NAME = re.compile(r"[A-Za-z][A-Za-z_]+")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # getHTTPResponse_now: get, HTTP, Response, now
GROUP, FAN_IN, VOCABULARY = 16, 4, 1500
# These stand in every file and say nothing about what it is for.
DULL = set(
    "def self return the for not and class import from else with try except this that name none true false".split()
)


def standard_library(limit: int | None) -> tuple[Path, list[str]]:
    """The source files of the interpreter's standard library, without tests."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "site-packages", "idlelib", "__pycache__", "lib2to3", "encodings"}
    files = [path for path in sorted(root.rglob("*.py")) if not skipped & set(path.relative_to(root).parts)]
    return root, [str(path) for path in files[:limit]]


def count_words(path: str) -> tuple[Counter[str], tuple[int, str, int, str]]:
    """How often each word occurs in a file; and the name in it that is made of most words, with its line."""
    counts: Counter[str] = Counter()
    longest: tuple[int, str, int] = (0, "", 0)
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            for name in NAME.findall(line):
                words: list[str] = WORD.findall(name)
                if len(words) > longest[0]:
                    longest = (len(words), name, number)
                for word in words:
                    word = word.lower()
                    if len(word) > 2 and word not in DULL:
                        counts[word] += 1
    return counts, (longest[0], longest[1], longest[2], path)


def index(paths: list[str]) -> tuple[list[Counter[str]], Index]:
    """The counts of each file of a group, and the group's index: words, words by files, the name of most words."""
    counted = [count_words(path) for path in paths]
    words: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for counts, _ in counted:
        words.update(counts)
        files.update(counts.keys())
    return [counts for counts, _ in counted], (words, files, max(longest for _, longest in counted))


def merge(*indexes: Index) -> Index:
    words: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for more_words, more_files, _ in indexes:
        words.update(more_words)
        files.update(more_files)
    return words, files, max(longest for _, _, longest in indexes)


def usage(counts: list[Counter[str]], vocabulary: list[str]) -> Any:
    """Which of the files uses which word how much: a matrix with rows of length one."""
    import numpy as np

    matrix = np.log1p(np.array([[words[word] for word in vocabulary] for words in counts], dtype=np.float32))
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)


def closest(matrix: Any, first: int, last: int) -> Likeness:
    """For each file of a range of rows: the most similar other file, and how similar."""
    import numpy as np

    likeness = matrix[first:last] @ matrix.T
    likeness[np.arange(last - first), np.arange(first, last)] = -1
    best = likeness.argmax(axis=1)
    return [(first + i, int(j), float(likeness[i, j])) for i, j in enumerate(best)]


# What becomes remote is the plain functions above; the serial version below calls the very same ones.
index_task = ray.remote(num_returns=2)(index)
merge_task = ray.remote(merge)
usage_task = ray.remote(usage)
closest_task = ray.remote(closest)


@ray.remote
def nothing() -> None:
    return None


@ray.remote
class Progress:
    """Tracks how far the work is; anybody who has the handle may report or look."""

    def __init__(self, files: int) -> None:
        self.files, self.done, self.bytes = files, 0, 0

    @ray.method
    def report(self, paths: list[str]) -> None:
        self.done += len(paths)
        self.bytes += sum(os.path.getsize(path) for path in paths)

    @ray.method
    def look(self) -> tuple[int, int, int]:
        return self.done, self.files, self.bytes


def groups_of(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[i : i + size]) for i in range(0, len(items), size)]


def with_ray(paths: list[str], numpy: Any) -> tuple[Counter[str], Counter[str], tuple[int, str, int, str], Likeness]:
    progress = Progress.remote(len(paths))
    groups = groups_of(paths, GROUP)
    indexed = [index_task.remote(group) for group in groups]
    counts, partial = [one for one, _ in indexed], [other for _, other in indexed]

    # Handle each group as soon as it is there, whichever comes first.
    group_of, waiting = dict(zip(counts, groups, strict=True)), list(counts)
    while waiting:
        (ready,), waiting = ray.wait(waiting)
        progress.report.remote(group_of[ready])
        if sys.stdout.isatty() or not waiting:
            done, files, size = ray.get(progress.look.remote())
            print(f"\r  {done} of {files} files, {size / 1e6:.1f} MB", end="", flush=True)
    print()

    # A tree: each task merges a few partial indexes; what is passed on are references.
    while len(partial) > 1:
        partial = [merge_task.remote(*few) for few in groups_of(partial, FAN_IN)]
    words, files, longest = ray.get(partial[0])

    likeness: Likeness = []
    if numpy:
        vocabulary = ray.put([word for word, _ in words.most_common(VOCABULARY)])
        parts = ray.get([usage_task.remote(group, vocabulary) for group in counts])
        matrix = ray.put(numpy.concatenate(parts))  # copied once, read in place by every task
        rows = range(0, len(paths), 64)
        parts = ray.get([closest_task.remote(matrix, first, min(first + 64, len(paths))) for first in rows])
        likeness = [entry for part in parts for entry in part]
    return words, files, longest, likeness


def serially(paths: list[str], numpy: Any) -> tuple[Counter[str], Counter[str], tuple[int, str, int, str], Likeness]:
    counts, (words, files, longest) = index(paths)
    likeness: Likeness = []
    if numpy:
        vocabulary = [word for word, _ in words.most_common(VOCABULARY)]
        likeness = closest(usage(counts, vocabulary), 0, len(paths))
    return words, files, longest, likeness


def timed(function: Callable[..., T], *args: Any) -> tuple[T, float]:
    began = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - began


def most_alike(likeness: Likeness, names: list[str], how_many: int = 3) -> list[tuple[float, str, str]]:
    """The closest pairs of files that are not copies of one another."""
    pairs = {(min(one, two), max(one, two)): alike for one, two, alike in likeness if alike < 0.97}
    best = sorted(pairs.items(), key=lambda pair: -pair[1])[:how_many]
    return [(alike, names[one], names[two]) for (one, two), alike in best]


def main() -> None:
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else None
    root, paths = standard_library(limit)
    numpy: Any = None
    try:
        import numpy
    except ImportError:
        print("(numpy is not installed: files are not compared)")

    _, starting = timed(ray.init)
    cpus = int(ray.cluster_resources()["CPU"])
    print(f"A cluster of {cpus} CPUs, started in {starting * 1000:.0f} ms. Reading {len(paths)} files of {root}:")
    (words, files, longest, likeness), parallel = timed(with_ray, paths, numpy)

    print(f"  {sum(words.values()):,} words, {len(words):,} different ones")
    print("  most used:", ", ".join(f"{word} ({n:,})" for word, n in words.most_common(6)))
    print("  in most files:", ", ".join(f"{word} ({n})" for word, n in files.most_common(6)))
    how_many, name, line, path = longest
    print(f"  most words in a name: {how_many}, {name}, {os.path.relpath(path, root)} line {line}")
    for alike, name_one, name_two in most_alike(likeness, [os.path.relpath(path, root) for path in paths]):
        print(f"  much alike: {name_one} and {name_two} ({alike:.2f})")

    same, serial = timed(serially, paths, numpy)
    assert same[:2] == (words, files), "both ways must find the same words"
    faster = serial / parallel
    print(f"With tasks {parallel:.2f} s, serially {serial:.2f} s: {faster:.1f} times as fast on {cpus} CPUs.")

    many, few = 20_000, 2_000
    ray.get([nothing.remote() for _ in range(few)])
    _, batch = timed(lambda: ray.get([nothing.remote() for _ in range(many)]))
    _, one_by_one = timed(lambda: [ray.get(nothing.remote()) for _ in range(few)])
    print(f"Empty tasks: {many / batch:,.0f} a second in a batch, {few / one_by_one:,.0f} a second one after another.")
    _, stopping = timed(ray.shutdown)
    print(f"Shut down in {stopping * 1000:.0f} ms.")


if __name__ == "__main__":
    main()
