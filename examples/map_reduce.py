"""Map and reduce with tasks that start tasks: which letters follow one another in Python's documentation strings?

A reduce task is given references and starts map tasks of its own; while it waits for them it gives its CPU back, so the
tree may be deeper than the machine has CPUs.
"""

import collections
import itertools
import sys
from collections.abc import Sequence

import ray_rs as ray


@ray.remote
def count_pairs(module: str) -> collections.Counter[str]:
    """Map: pairs of letters in the documentation of one module and what is in it."""
    imported = sys.modules.get(module) or __import__(module)
    texts: list[object] = [imported.__doc__ or ""]
    texts += [getattr(imported, name).__doc__ or "" for name in dir(imported) if callable(getattr(imported, name))]
    pairs: collections.Counter[str] = collections.Counter()
    for text in texts:
        if isinstance(text, str):
            for word in text.lower().split():
                pairs.update(a + b for a, b in itertools.pairwise(word) if a.isalpha() and b.isalpha())
    return pairs


@ray.remote
def reduce_tree(modules: Sequence[str]) -> collections.Counter[str]:
    """Halves the list until one module is left; each half is a task of its own."""
    if len(modules) == 1:
        return ray.get(count_pairs.remote(modules[0]))
    middle = len(modules) // 2
    left, right = reduce_tree.remote(modules[:middle]), reduce_tree.remote(modules[middle:])
    return ray.get(left) + ray.get(right)


MODULES = (
    "argparse ast asyncio base64 bisect calendar collections copy csv datetime decimal difflib email enum fractions "
    "functools glob gzip hashlib heapq html http inspect io ipaddress itertools json logging math os pathlib pickle "
    "random re shutil socket sqlite3 statistics string subprocess tarfile tempfile textwrap threading unittest "
    "urllib uuid warnings weakref xml zipfile"
).split()


def main() -> None:
    ray.init()
    pairs = ray.get(reduce_tree.remote(MODULES))
    print(f"{sum(pairs.values()):,} pairs of letters in the documentation of {len(MODULES)} modules")
    for pair, n in pairs.most_common(8):
        print(f"  {pair}  {n:6,}  {'#' * (60 * n // pairs.most_common(1)[0][1])}")
    ray.shutdown()


if __name__ == "__main__":
    main()
