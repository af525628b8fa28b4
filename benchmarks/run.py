"""Measures every row for ray_rs and, with --vs-ray, for Ray 2.60 in the same run; prints the table and keeps it.

    make bench                                  ray_rs alone
    make bench ARGS=--vs-ray                    and Ray 2.60 beside it, in a virtual environment made on demand
    make bench ARGS="--quick --rows sync"       a first look at some rows
    make bench-cluster                          the rows about several nodes (--cluster)

Each family of rows runs in a fresh process; the engines take turns, pass after pass, so that whatever the machine does
meanwhile happens to both. The figure of a row is the median of all its rounds.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

import machine
from table import CLUSTER_ROWS, DISK, FAMILIES, ROWS, Row

HERE = Path(__file__).parent
LOAD = f"{os.getloadavg()[0]:.2f}"  # what else ran here: figures taken beside other work are not worth keeping
RAY_REQUIREMENTS = ["ray[client]==2.60.0", "numpy"]


def ray_python(verbose=print):
    """An interpreter with Ray: $RAY_VENV if given, else a virtual environment made here once."""
    given = os.environ.get("RAY_VENV")
    folder = Path(given) if given else HERE.parent / ".venv-ray"
    python = folder / "bin" / "python"
    if not python.exists():
        if given:
            sys.exit(f"RAY_VENV={given} has no bin/python")
        verbose(f"making {folder} with {', '.join(RAY_REQUIREMENTS)} ...")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *RAY_REQUIREMENTS]
        subprocess.run(install, check=True)
    return str(python)


def measure(python, engine, family, args):
    command = [python, str(HERE / "measure.py"), "--engine", engine, "--family", family]
    command += ["--rows", args.rows, "--seconds", str(args.seconds), "--rounds", str(args.rounds)]
    command += ["--quick"] if args.quick else []
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "PYTHONWARNINGS": "ignore"}
    # Else a program from outside would have to be given Ray's token first.
    env["RAY_AUTH_MODE"] = "disabled"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.patience, env=env)
    except subprocess.TimeoutExpired:
        return None, f"did not end within {args.patience} s"
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:]), None
    return None, (done.stderr or done.stdout)[-2000:]


def asked_for(args):
    parts = args.rows.split(",") if args.rows else [""]
    all_rows = CLUSTER_ROWS if args.cluster else ROWS
    rows = [row for row in all_rows if any(part in row.name for part in parts)]
    return rows, [family for family in FAMILIES if any(row.family == family for row in rows)]


def collect(args, engines):
    """All figures: {engine: {row: [figures]}}, the proofs, the copy and link probes, and what went wrong."""
    rows, families = asked_for(args)
    figures = {engine: {} for engine in engines}
    proofs, notes, counters, failures = {}, {}, {}, []
    probe = {"gigabytes": "copy", "cluster transfer": "link"}
    probes = [probe[family] for family in families if family in probe]
    limits = {}
    for name in probes:
        found, problem = measure(sys.executable, "none", name, args)
        limits.update(found["extra"] if found else {})
        if problem:
            failures.append(f"{name} probe: {problem}")
    for number in range(args.passes):
        for family in families:
            order = list(engines) if number % 2 == 0 else list(engines)[::-1]
            for engine in order:
                repeats = args.starts if family == "lifecycle" else 1
                if family in ("idle", "memory", "cluster raylet") and number > 0:
                    continue
                for _ in range(repeats):
                    print(f"\r\033[K  pass {number + 1} of {args.passes}: {family} ({engine})", end="", file=sys.stderr)
                    found, problem = measure(engines[engine], engine, family, args)
                    if problem:
                        failures.append(f"{engine}, {family}: {problem}")
                        break
                    for name, values in found["results"].items():
                        figures[engine].setdefault(name, []).extend(values)
                    proofs.setdefault(engine, {}).update(found["proof"])
                    notes.setdefault(engine, {}).update(found["notes"])
                    if "counters" in found["extra"]:
                        counters.setdefault(engine, {})[family] = found["extra"]["counters"]
    print("\r\033[K", end="", file=sys.stderr)
    return rows, figures, proofs, notes, counters, limits, failures


def middle(figures, name):
    values = figures.get(name)
    return statistics.median(values) if values else None


def show(value):
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def judge(row: Row, ours, theirs, limits):
    """Times Ray, the goal, and whether it is reached."""
    times = None
    if ours and theirs:
        times = theirs / ours if row.lower_is_better else ours / theirs
    if row.link:
        if "lesser" not in limits or ours is None:
            return times, "within 20% of the link or the copy", None
        return times, f">= {0.8 * limits['lesser']:.2f} GB/s (80% of the lesser)", ours >= 0.8 * limits["lesser"]
    if row.copy:
        if row.copy not in limits or ours is None:
            return times, "within 20% of the copy", None
        # Ray's microbenchmark calls 800 MiB 0.8 GB; so do we here.
        fastest = limits[row.copy] / 2**20 / 1000
        return times, f">= {0.8 * fastest:.1f} GB/s (80% of a copy)", ours >= 0.8 * fastest
    if row.disk:
        if not limits.get(DISK) or ours is None:
            return times, "80% of the disk", None
        return times, f">= {0.8 * limits[DISK]:.2f} GB/s (80% of dd)", ours >= 0.8 * limits[DISK]
    goals, reached = [], []
    if row.goal:
        goals.append(f"{row.goal:g}x")
        if times is not None:
            reached.append(times >= row.goal)
    if row.limit is not None:
        goals.append(f"<= {row.limit:g} {row.unit}")
        if ours is not None:
            reached.append(ours <= row.limit)
    return times, ", ".join(goals), all(reached) if reached else None


def table(rows, figures, notes, limits):
    ours, theirs = figures.get("ray_rs", {}), figures.get("ray", {})
    limits = {**limits, DISK: middle(ours, DISK)}
    lines = ["| row | unit | ray_rs | Ray | times Ray | goal | |", "| --- | --- | ---: | ---: | ---: | --- | --- |"]
    for row in rows:
        a, b = middle(ours, row.name), middle(theirs, row.name)
        times, goal, reached = judge(row, a, b, limits)
        mark = {True: "reached", False: "**missed**", None: ""}[reached]
        ratio = f"{times:.1f}x" if times else "-"
        taken_with = {engine: notes[engine][row.name] for engine in notes if row.name in notes[engine]}
        name = f"{row.name} ({'; '.join(f'{e}: {note}' for e, note in taken_with.items())})" if taken_with else row.name
        lines.append(f"| {name} | {row.unit} | {show(a)} | {show(b)} | {ratio} | {goal} | {mark} |")
    return lines


def report(args, rows, figures, proofs, notes, counters, limits, failures):
    about = {
        **machine.description(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "commit": commit(),
        "load before the run": LOAD,
    }
    lines = ["# Benchmark results", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [f"- passes {args.passes}, rounds {args.rounds} of {args.seconds} s; medians", ""]
    lines += table(rows, figures, notes, limits)
    if "lesser" in limits:
        lines += [
            "",
            "Between nodes: "
            + ", ".join(f"{k} {v if isinstance(v, str) else f'{v:.2f} GB/s'}" for k, v in limits.items()),
        ]
    elif limits:
        lines += ["", "Fastest copies into warm shared pages, GB/s; a row is held against the one of its own kind:", ""]
        lines += [f"- {name}: {value / 1e9:.1f}" for name, value in limits.items() if not isinstance(value, str)]
    ran = {
        e: (sum(p["calls"] for p in v.values()), sum(p["ran_elsewhere"] for p in v.values())) for e, v in proofs.items()
    }
    for engine, (calls, elsewhere) in ran.items():
        lines += [
            "",
            f"{engine}: of {calls:,} no-op calls checked, {elsewhere:,} ran, all in other processes than the caller's.",
        ]
    for failure in failures:
        lines += ["", "Not measured: " + failure.strip().replace("\n", " / ")[-600:]]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.no_save:
        return
    name = re.sub(r"[^a-z0-9]+", "-", f"{about['cpu']} {about['cores']} cores".lower()).strip("-")
    stem = (
        HERE
        / "results"
        / f"{datetime.date.today()}-{name}{'-cluster' if args.cluster else ''}{'-quick' if args.quick else ''}"
    )
    stem.parent.mkdir(exist_ok=True)
    everything = {
        "about": about,
        "figures": figures,
        "proofs": proofs,
        "counters": counters,
        "notes": notes,
        "limits": limits,
        "failures": failures,
    }
    stem.with_name(stem.name + ".json").write_text(json.dumps(everything, indent=1) + "\n")
    stem.with_name(stem.name + ".md").write_text(text)
    print(f"kept as {stem.relative_to(HERE.parent)}.json and .md")


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    return done.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", action="store_true", help="the rows about several nodes")
    parser.add_argument("--vs-ray", action="store_true", help="measure Ray 2.60 in the same run")
    parser.add_argument("--engine", choices=["ray_rs", "ray"], help="measure this engine alone")
    parser.add_argument("--rows", default="", help="only rows whose name contains one of these, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a first look: short rounds, one pass, smaller batches")
    parser.add_argument("--passes", type=int, help="how often the engines take turns (3; quick: 1)")
    parser.add_argument("--rounds", type=int, default=2, help="timed rounds of a row in each pass")
    parser.add_argument("--seconds", type=float, help="length of a round (1; quick: 0.3)")
    parser.add_argument("--starts", type=int, help="fresh processes for the start-up rows in each pass (3; quick: 1)")
    parser.add_argument("--patience", type=float, default=600, help="seconds after which a family is given up")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    args.passes = args.passes or (1 if args.quick else 3)
    args.seconds = args.seconds or (0.3 if args.quick else 1.0)
    args.starts = args.starts or (1 if args.quick else 3)
    engines = {}
    if args.engine != "ray":
        engines["ray_rs"] = sys.executable
    if args.vs_ray or args.engine == "ray":
        engines["ray"] = ray_python()
    if not (HERE / "results").exists():
        (HERE / "results").mkdir()
    assert platform.system() == "Linux", "the benchmarks read /proc"
    if float(LOAD) > 0.5:
        print(f"The machine is busy (load {LOAD}): ratios may still tell something, figures will not.", file=sys.stderr)
    outcome = collect(args, engines)
    report(args, *outcome)
    sys.exit(1 if outcome[-1] else 0)


if __name__ == "__main__":
    main()
