"""What `petrun data clean` finds of duplicates that were planted, and what a million rows cost it.

    pip install -e '.[data]'
    python scripts/bench/duplicates.py planted [--rows 100000] [--near 0.8]
    python scripts/bench/duplicates.py memory [--rows 100000 1000000]

planted: rows of random words, of which a tenth are copies of earlier ones: exact, in other case and spacing, or with some words replaced.
A copy counts as a near duplicate where its true Jaccard similarity (of the sets of character 5-grams, computed exactly) to its original is
at least --near. Printed: precision and recall of each reason, and recall by true similarity.
memory: the command in a process of its own: seconds, largest resident size, and bytes of temporary files that were open at once.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
KINDS = ("exact", "spacing", "words")


def vocabulary(count: int, draw: random.Random) -> list[str]:
    """Words of two to four syllables."""
    consonants, vowels = "bcdfghklmnprstvz", "aeiou"
    made: set[str] = set()
    while len(made) < count:
        made.add("".join(draw.choice(consonants) + draw.choice(vowels) for _ in range(draw.randint(2, 4))))
    return sorted(made)


def write_rows(path: Path, count: int, seed: int = 0) -> dict[int, tuple[str, str, str]]:
    """Write rows, a tenth of them copies. Returns line -> (kind, its text, the original's text)."""
    draw = random.Random(seed)
    words = vocabulary(20_000, draw)
    planted: dict[int, tuple[str, str, str]] = {}
    earlier: list[tuple[str, str]] = []
    with path.open("w", encoding="utf-8") as file:
        for line in range(1, count + 1):
            if earlier and draw.random() < 0.1:
                question, answer = draw.choice(earlier)
                kind = draw.choice(KINDS)
                original = f"{question}\n{answer}"
                if kind == "spacing":
                    question, answer = f"  {question.upper()} ", answer.replace(" ", "  ")
                elif kind == "words":
                    parts = answer.split(" ")
                    for place in draw.sample(range(len(parts)), draw.randint(1, max(1, len(parts) // 10))):
                        parts[place] = draw.choice(words)
                    answer = " ".join(parts)
                planted[line] = (kind, f"{question}\n{answer}", original)
            else:
                question = " ".join(draw.choices(words, k=draw.randint(4, 12)))
                answer = " ".join(draw.choices(words, k=draw.randint(15, 50)))
                if len(earlier) < 20_000:
                    earlier.append((question, answer))
            file.write(json.dumps({"prompt": question, "completion": answer}) + "\n")
    return planted


def jaccard(one: str, other: str) -> float:
    """The exact similarity, of Python's own sets of 5-grams of text as duplicates are compared."""
    from petrun.curation.keys import normalised

    sets = []
    for text in map(normalised, (one, other)):
        sets.append({text[i : i + 5] for i in range(max(1, len(text) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def clean(source: Path, out: Path, *more: str) -> tuple[float, float]:
    """Run the command. Returns (seconds, largest resident size in MiB)."""
    start = time.perf_counter()
    line = [sys.executable, "-m", "petrun", "data", "clean", str(source), "--out", str(out), *more]
    subprocess.run(line, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def planted(rows: int, near: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "rows.jsonl", Path(folder) / "clean.jsonl"
        truth = write_rows(source, rows)
        seconds, _ = clean(source, out, "--near", str(near))
        dropped = Path(f"{out}.dropped.jsonl").read_text(encoding="utf-8").splitlines()
    found = {row["line"]: row["reason"] for row in map(json.loads, dropped)}
    likeness = {line: jaccard(copy, original) for line, (_, copy, original) in truth.items()}
    exact = {line for line in truth if likeness[line] == 1.0}
    close = {line for line in truth if near <= likeness[line] < 1.0}
    print(
        f"{rows:,} rows, {len(truth):,} copies planted: {len(exact):,} equal, {len(close):,} with a similarity of {near:g} or more, "
        f"{len(truth) - len(exact) - len(close):,} below; {seconds:.0f} s"
    )
    for reason, wanted in (("duplicate", exact), ("near duplicate", close)):
        named = {line for line, why in found.items() if why == reason}
        right = named & wanted
        # A copy just below the threshold may be estimated above it, and is a copy still.
        copies = named & truth.keys()
        print(
            f"{reason}: {len(named):,} named, precision {len(right) / max(len(named), 1):.4f} "
            f"({len(copies) / max(len(named), 1):.4f} are planted copies), recall {len(right) / max(len(wanted), 1):.4f}"
        )
    bands = Counter[float]()
    hits = Counter[float]()
    for line in truth:
        if likeness[line] < 1.0:
            band = int(likeness[line] * 20) / 20
            bands[band] += 1
            hits[band] += line in found
    for band in sorted(bands, reverse=True):
        print(
            f"  similarity {band:.2f} to {band + 0.05:.2f}: {hits[band]:,} of {bands[band]:,} dropped, {hits[band] / bands[band]:.3f}"
        )


def memory(counts: list[int]) -> None:
    for rows in counts:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "rows.jsonl", Path(folder) / "clean.jsonl"
            write_rows(source, rows)
            seconds, size = clean(source, out)
            print(
                f"{rows:,} rows, {source.stat().st_size / 2**20:,.0f} MiB: {seconds:.0f} s, largest resident size {size:,.0f} MiB, "
                f"signatures {rows * 512 / 2**20:,.0f} MiB on disk",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sub = parser.add_subparsers(dest="what", required=True)
    one = sub.add_parser("planted")
    one.add_argument("--rows", type=int, default=100_000)
    one.add_argument("--near", type=float, default=0.8)
    other = sub.add_parser("memory")
    other.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    given = parser.parse_args()
    if given.what == "planted":
        planted(given.rows, given.near)
    else:
        memory(given.rows)


if __name__ == "__main__":
    main()
