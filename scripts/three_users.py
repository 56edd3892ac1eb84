"""Drive a fresh clone as three users would, and check the words that they see: on a laptop with Chinese data, on a cluster, from MindPet.

    python scripts/three_users.py                              # a clone and an environment of its own in a temporary folder
    python scripts/three_users.py --python .venv/bin/python    # with the packages of an environment that is there
    python scripts/three_users.py --users laptop

Each user follows pages of docs/ from top to bottom, in one shell a page: every command must end well and print what the page shows,
apart from figures. Then the user makes mistakes, and must be told what is wrong and what to do. The program prints a line a command, the
time of each page, and ends with 1 where something was lacking.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from console_pages import Ran, run, view

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A command that must be refused."""

    command: str
    code: int
    words: tuple[str, ...]
    """What the message must hold: what is wrong, and the way out."""


@dataclass(frozen=True, kw_only=True)
class User:
    """Pages that somebody follows, and mistakes that are made in the folder of the last one."""

    pages: tuple[str, ...]
    mistakes: tuple[Mistake, ...]


USERS = {
    "laptop": User(
        pages=("zh/tutorial.md", "zh/own-data.md"),
        mistakes=(
            Mistake(
                command="petrun train --base base --data orders.csv",
                code=1,
                words=(
                    "looks like a header with the unknown columns '问题' and '答案'",
                    "--set data.columns.prompt=问题",
                ),
            ),
            Mistake(
                command="petrun train --base base --data parts/train.jsonl --algo lroa",
                code=2,
                words=("unknown algorithm 'lroa'", "Did you mean", "lora"),
            ),
            Mistake(
                command="petrun train --base base --data parts/train.jsonl --template chat --out runs/cities",
                code=1,
                words=("runs/cities", "finished"),
            ),
        ),
    ),
    "cluster": User(
        pages=("zh/cluster.md", "resume.md", "zh/two-strategies.md"),
        mistakes=(
            Mistake(
                command="petrun rehearse --algo lora --cards 8 --parallel tp=8",
                code=2,
                words=("does not divide 4 attention heads", "These divide: --parallel"),
            ),
            Mistake(
                command="petrun job --to slurm --cards 16 --hosts 2 -- --algo lora --rnak 8 --out /shared/tuned",
                code=2,
                words=("--rnak", "--rank"),
            ),
            Mistake(
                command="petrun eval --base ckpts --base-strategy pretrain --delta delta_ckpts --delta-strategy pretrain "
                "--data petrun/assets/task/eval.jsonl",
                code=1,
                words=("ranks", "delta_ckpts"),
            ),
        ),
    ),
    "mindpet": User(
        pages=("zh/mindpet.md",),
        mistakes=(
            Mistake(
                command="petrun eval --model net.py:build --base base/base.ckpt --delta tuned/DELTA_CKP-20_16.ckpt --data data/points.npz",
                code=1,
                words=("MindPet's checkpoints do not hold alpha", "--alpha"),
            ),
            Mistake(
                command="sed s/petrun.mindpet/mindpet/ tune.py > old.py; petrun mindpet finetune -q -dp data -op out -pm base -bp old.py",
                code=1,
                words=("old.py, line 9: imports mindpet, which is not installed", "write petrun.mindpet"),
            ),
            Mistake(
                command="petrun mindpet evaluate -q -dp data -op out -bp score.py",
                code=1,
                words=("ckpt_path",),
            ),
        ),
    ),
}


def user_environment(folder: Path, clone: Path, python: Path) -> dict[str, str]:
    """Return the variables of a user who has used nothing of petrun yet: compiled graphs and rows are kept nowhere."""
    own = view(folder, clone, python)
    return {
        **os.environ,
        **own,
        "PATH": f"{own['PATH']}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "MS_OM_PATH": str(folder / ".dumps"),
    }


def tell(ran: Ran) -> bool:
    """Print a line about a command, and what was wrong. Return whether it did what the page shows."""
    good = ran.code == 0 and not ran.lacking
    shown = len([line for line in ran.step.shown if line.strip(". ")])
    print(
        f"  {'ok    ' if good else 'FAILED'} {ran.seconds:6.1f} s  {shown:2} lines as shown  {ran.step.command[:110]}",
        flush=True,
    )
    if ran.code:
        print(ran.printed[-2000:])
    for line in ran.lacking:
        print(f"           lacking: {line}")
    return good


def refused(mistake: Mistake, folder: Path, environment: Mapping[str, str]) -> bool:
    """Make a mistake; print a line about it, and return whether it was refused with the right words."""
    done = subprocess.run(
        ["bash", "-c", mistake.command], cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )
    said = " ".join((done.stderr + done.stdout).split())
    lacking = [words for words in mistake.words if words not in said]
    good = done.returncode == mistake.code and not lacking and "Traceback" not in said
    print(
        f"  {'ok    ' if good else 'FAILED'} refused with {done.returncode}        {mistake.command[:110]}", flush=True
    )
    if not good:
        print(f"           expected {mistake.code}, lacking {lacking}: {said[-1500:]}")
    return good


def follow(name: str, clone: Path, python: Path, folder: Path) -> bool:
    """Do what a user does. Return whether all went as the pages say."""
    good, place, environment = True, folder, dict(os.environ)
    for page in USERS[name].pages:
        place = folder / f"{name}-{page.replace('/', '-').removesuffix('.md')}"
        environment = user_environment(place, clone, python)
        print(f"{name}: docs/{page}")
        begun = time.monotonic()
        done = run(clone / "docs" / page, place, environment)
        good = all([tell(ran) for ran in done]) and good
        print(f"{name}: docs/{page}: {len(done)} commands in {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{name}: mistakes")
    return all([refused(mistake, place, environment) for mistake in USERS[name].mistakes]) and good


def fresh_clone(folder: Path) -> Path:
    """Clone what is committed here."""
    clone = folder / "petrun"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(clone)], check=True)
    return clone


def own_python(clone: Path) -> Path:
    """Make the clone's own environment, as scripts/quickstart.sh does."""
    begun = time.monotonic()
    subprocess.run(["bash", "-c", "source scripts/setup.sh && setup metrics"], cwd=clone, check=True)
    print(f"installed in {time.monotonic() - begun:.0f} s", flush=True)
    return clone / ".venv" / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="of an environment with petrun's packages, instead of a new one")
    parser.add_argument("--users", default=",".join(USERS), help="comma-separated")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clone = fresh_clone(folder)
        # Not resolved: the link in an environment is what says which packages there are.
        python = given.python.absolute() if given.python else own_python(clone)
        failed = [name for name in given.users.split(",") if not follow(name, clone, python, folder)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
