"""How a run's step time and peak memory grow: against batch, length, layers, rank of the delta, rows and processes.

    python scripts/bench/scaling.py [--axes batch length layers rank rows ranks] [--steps 12] [--svg docs/growth.svg]

Every case is `petrun train` with LoRA on all linear layers of a Llama with random weights (hidden width 128, a tokenizer of one token a
byte), in a process of its own; one setting differs from 8 rows x 64 tokens, 4 layers, rank 8, 64 rows of data, 1 process. Printed: the
seconds of the fastest step after the third, the largest resident size that a process of the run had, imports included, and for each axis
the exponent k of a fit  y = c x^k  (least squares of the logarithms) with its number of points and R^2; beside it the exponent between the
last two points, where constant costs weigh least. `rows` and `layers (stored graph)` start from the caches of rows and graphs, all others
compile. `ranks` shares the batch of 8 rows among processes of this machine; `ranks (8 rows each)` gives each of them as many.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

HIDDEN, WARM_UP = 128, 3
STANDARD = {"batch": 8, "length": 64, "layers": 4, "rank": 8, "rows": 64, "ranks": 1}
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "batch": ("batch", (2, 4, 8, 16, 32, 64)),
    "length": ("length", (16, 32, 64, 128, 256, 512)),
    "layers": ("layers", (1, 2, 4, 8, 16)),
    "layers (stored graph)": ("layers", (1, 2, 4, 8, 16)),
    "rank": ("rank", (1, 4, 16, 64, 128)),
    "rows": ("rows", (1_000, 10_000, 100_000)),
    "ranks": ("ranks", (1, 2, 4)),
    "ranks (8 rows each)": ("ranks", (1, 2, 4)),
}
"""Name -> (the setting that differs, its values)."""


STORED = ("layers (stored graph)", "rows")
"""Axes whose cases find rows and graphs in their caches; all others are compiled in the process whose memory is measured."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One case of an axis."""

    x: int
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Fit:
    """y = c x^exponent over `points` points."""

    exponent: float
    r_squared: float
    points: int
    last: float
    """Exponent between the last two points."""


def fit(xs: list[float], ys: list[float]) -> Fit:
    """Fit a power law by least squares of the logarithms."""
    a, b = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mean_a, mean_b = statistics.fmean(a), statistics.fmean(b)
    spread = sum((x - mean_a) ** 2 for x in a)
    slope = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / spread
    total = sum((y - mean_b) ** 2 for y in b)
    rest = sum((y - mean_b - slope * (x - mean_a)) ** 2 for x, y in zip(a, b, strict=True))
    return Fit(
        exponent=slope,
        r_squared=1.0 - rest / total if total else 1.0,
        points=len(xs),
        last=(b[-1] - b[-2]) / (a[-1] - a[-2]),
    )


def peak_of_tree(process: int) -> int:
    """Return the largest peak resident size in bytes of a process and those that it has started; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return max([own, *(peak_of_tree(int(child)) for child in children)])


def train(place: Path, case: dict[str, int], steps: int, name: str, *, stored: bool) -> Point:
    """Run one case in `place`, which holds its base; `stored`: with the caches of rows and graphs. `Point.x` is the number of processes."""
    data = place / f"rows-{case['rows']}-{case['length']}.jsonl"
    if not data.exists():
        letters = "abcdefghijklmnopqrstuvwxyz"
        with data.open("w", encoding="utf-8") as file:
            for i in range(case["rows"]):
                text = f"{i:09d} " + letters * (case["length"] // 26 + 1)
                file.write(json.dumps({"text": text[: case["length"] - 1]}) + "\n")
    line = [
        sys.executable,
        "-m",
        "petrun",
        "train",
        "--base",
        str(place / f"base-{case['layers']}"),
        "--data",
        str(data),
    ]
    line += f"--task lm --algo lora --target all-linear --rank {case['rank']} --seq-len {case['length']}".split()
    line += f"--batch-size {case['batch'] // case['ranks']} --steps {steps} --set eval.samples=0 --out {name}".split()
    line += [] if stored else ["--no-compile-cache", "--set", "data.cache=false"]
    line += [f"--cards={case['ranks']}", "--device=cpu"] if case["ranks"] > 1 else []
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    with open(place / f"{name}.txt", "w", encoding="utf-8") as told:
        started = subprocess.Popen(line, cwd=place, env=environment, stdout=told, stderr=told)
        peak, ended = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.1):
                peak = max(peak, peak_of_tree(started.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = started.wait()
        ended.set()
        watcher.join()
    if code:
        raise SystemExit(f"{' '.join(line)}: code {code}\n{(place / f'{name}.txt').read_text()[-2000:]}")
    records = [json.loads(text) for text in (place / name / "log.jsonl").read_text().splitlines()]
    seconds = [record["seconds"] for record in records if "grad_norm" in record][WARM_UP:]
    shutil.rmtree(place / name)
    return Point(x=case["ranks"], seconds=min(seconds), peak_bytes=peak)


def measure(place: Path, axis: str, steps: int) -> list[Point]:
    """Run every case of an axis and print its line."""
    from first_step import make_base

    setting, values = AXES[axis]
    found = []
    for value in values:
        case = {**STANDARD, setting: value}
        if axis.endswith("each)"):
            case["batch"] *= value
        if not (place / f"base-{case['layers']}").exists():
            make_base(place / f"base-{case['layers']}", case["layers"], HIDDEN, positions=1024)
        if axis in STORED:
            # The first run fills the caches.
            train(place, case, WARM_UP + 1, f"{setting}-{value}-first", stored=True)
        began = time.perf_counter()
        point = train(place, case, steps, f"{setting}-{value}", stored=axis in STORED)
        found.append(Point(x=value, seconds=point.seconds, peak_bytes=point.peak_bytes))
        print(
            f"{axis:20s} {value:9,d}  {1000 * point.seconds:9.1f} ms  {point.peak_bytes / 2**20:8.0f} MiB  "
            f"(process {time.perf_counter() - began:.0f} s, load {os.getloadavg()[0]:.1f})",
            flush=True,
        )
    return found


def table(results: dict[str, list[Point]]) -> str:
    """Return the table of docs/performance.md."""
    lines = [
        "| against | from, to | step, ms | exponent (points, R²; last two) | peak, MiB | exponent (R²; last two) |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for axis, points in results.items():
        xs = [float(point.x) for point in points]
        time_fit, memory_fit = (fit(xs, ys) for ys in series(points))
        first, last = points[0], points[-1]
        lines.append(
            f"| {axis} | {first.x:,}, {last.x:,} | {1000 * first.seconds:.0f}, {1000 * last.seconds:.0f} | {time_fit.exponent:.2f} "
            f"({time_fit.points}, {time_fit.r_squared:.2f}; {time_fit.last:.2f}) | {first.peak_bytes / 2**20:.0f}, "
            f"{last.peak_bytes / 2**20:.0f} | {memory_fit.exponent:.2f} ({memory_fit.r_squared:.2f}; {memory_fit.last:.2f}) |"
        )
    return "\n".join(lines)


def series(points: list[Point]) -> tuple[list[float], list[float]]:
    return [point.seconds for point in points], [float(point.peak_bytes) for point in points]


def draw(results: dict[str, list[Point]]) -> str:
    """Return an SVG with one panel an axis: step time and peak memory as multiples of the first case's, on logarithmic axes."""
    width, height, margin, across = 240, 190, 34, 4
    rows = -(-len(results) // across)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across * width}" height="{rows * height + 24}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>'
        '<text x="10" y="16">multiples of the first case: <tspan fill="#1f77b4">step time</tspan>, '
        '<tspan fill="#d62728">peak memory</tspan>; dotted: linear growth</text>'
    ]
    for number, (axis, points) in enumerate(results.items()):
        left, top = number % across * width + margin, number // across * height + 24 + margin
        inner, depth = width - margin - 12, height - 2 * margin
        span = math.log2(points[-1].x / points[0].x)
        ratios = [[y / ys[0] for y in ys] for ys in series(points)]
        high = max(1.0, *(math.log2(max(one)) for one in ratios))
        low = min(0.0, *(math.log2(min(one)) for one in ratios))

        def at(x: float, ratio: float) -> tuple[float, float]:
            return left + inner * x / span, top + depth * (high - math.log2(ratio)) / (high - low)  # noqa: B023

        reach = min(span, high)
        (x1, y1), (x2, y2) = at(0, 1), at(reach, 2**reach)
        parts.append(f'<text x="{left}" y="{top - 8}" font-weight="bold">{axis}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="{inner}" height="{depth}" fill="none" stroke="#999"/>')
        parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#999" stroke-dasharray="2 3"/>'
        )
        for colour, ys in zip(("#1f77b4", "#d62728"), ratios, strict=True):
            dots = [at(math.log2(point.x / points[0].x), y) for point, y in zip(points, ys, strict=True)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in dots]
        parts.append(f'<text x="{left}" y="{top + depth + 14}">{points[0].x:,}</text>')
        parts.append(f'<text x="{left + inner}" y="{top + depth + 14}" text-anchor="end">{points[-1].x:,}</text>')
        parts.append(f'<text x="{left - 4}" y="{top + 8}" text-anchor="end">{2**high:.3g}</text>')
        parts.append(f'<text x="{left - 4}" y="{at(0, 1)[1]:.1f}" text-anchor="end">1</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--svg", help="file of the plots")
    parser.add_argument(
        "--json", help="file to which the points are added, and from which those of other axes are read"
    )
    given = parser.parse_args()
    stored = Path(given.json) if given.json else None
    results: dict[str, list[Point]] = {}
    if stored is not None and stored.exists():
        results = {
            axis: [Point(**point) for point in points] for axis, points in json.loads(stored.read_text()).items()
        }
    with tempfile.TemporaryDirectory(prefix="petrun-scaling-") as folder:
        for axis in given.axes:
            results[axis] = measure(Path(folder), axis, given.steps)
    results = {axis: results[axis] for axis in AXES if axis in results}
    if stored is not None:
        stored.write_text(json.dumps({axis: [vars(point) for point in points] for axis, points in results.items()}))
    print(table(results))
    if given.svg:
        Path(given.svg).write_text(draw(results), encoding="utf-8")


if __name__ == "__main__":
    main()
