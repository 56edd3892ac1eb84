"""`petrun export --check`: an export that is base + delta passes, a damaged one is found and removed, and what is unchecked is named."""

import importlib.util
import os
import re
import sys

import numpy as np
import pytest

from petrun.commands.delta import convert
from petrun.inference.merging import export_check
from petrun.interop.mindpet import writing
from tests.deltas import make_delta
from tests.tiny import write_base

PEFT_PYTHON = os.environ.get("PETRUN_PEFT_PYTHON") or (sys.executable if importlib.util.find_spec("peft") else None)
"""A Python with torch, transformers and peft."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base", "llama")
    make_delta(tmp_path / "d.ckpt", tmp_path / "base", "lora", rank=2, alpha=8.0)
    return tmp_path


def differences(text):
    """(largest difference of a logit, what the delta moves) of the line that was printed."""
    return float(re.search(r"at most (\S+) in a logit", text)[1]), float(re.search(r"by up to (\S+)\)", text)[1])


@pytest.mark.parametrize(("kind", "out"), [("mindpet", "d-mindpet.ckpt"), ("petrun", "d.safetensors")])
def test_files_are_read_back(here, petrun, kind, out):
    done = petrun(f"export d.ckpt --to {kind} --base base --out {out} --check")
    assert done.code == 0 and "check on 8 rows of random tokens" in done.out, done.err
    largest, moved = differences(done.out)
    assert largest < 1e-5 < 0.01 < moved


def test_a_damaged_export_is_found_and_removed(here, petrun, monkeypatch):
    """One matrix in the file is twice what it should be."""
    entries = writing.array_entries

    def damaged(arrays):
        return entries({name: 2 * values if "lora_b" in name else values for name, values in arrays.items()})

    monkeypatch.setattr(writing, "array_entries", damaged)
    done = petrun("export d.ckpt --to mindpet --base base --out bad.ckpt --check")
    assert done.code == 1 and "is not base + delta: a logit differs by" in done.err, done.out
    assert not (here / "bad.ckpt").exists() and (here / "d.ckpt").exists()


@pytest.mark.parametrize(
    ("width", "words"),
    [(258, "read by peft, is not base + delta"), (32, "read by peft, gives logits of shape (32, 32)")],
)
def test_logits_of_peft_are_compared(here, petrun, monkeypatch, width, words):
    """What its process answers counts: other logits fail, and nothing is left."""
    asked = []

    def answer(python, request):
        asked.append(request)
        return [np.zeros((len(row), width), np.float32) for row in request["rows"]]

    monkeypatch.setattr(export_check, "logits_of_peft", answer)
    monkeypatch.setattr(convert, "require_check", lambda *given: None)
    done = petrun("export d.ckpt --to peft --base base --out adapter --check")
    assert done.code == 1 and words in done.err and not (here / "adapter").exists()
    assert asked[0]["class"] == "AutoModelForCausalLM" and asked[0]["labels"] is None and len(asked[0]["rows"]) == 8


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--to gguf --out a.gguf --check", "nothing here computes logits with a file for gguf"),
        ("--to peft --out adapter --check --peft-python /no/python", "--peft-python /no/python: cannot be run"),
        ("--to peft --out adapter --check --peft-python false", "has no peft with torch and transformers"),
        ("--to petrun --out e.safetensors --probe p.txt", "--probe"),
        ("--to petrun --out e.safetensors --check --probe p.txt", "p.txt"),
        ("--to petrun --out e.safetensors --check --tolerance 0", "--tolerance 0 must be above 0"),
    ],
)
def test_refused(here, petrun, line, words):
    before = sorted(p.name for p in here.iterdir())
    done = petrun(f"export d.ckpt --base base {line}")
    assert done.code in (1, 2) and words in " ".join(done.err.split()), done.err
    assert sorted(p.name for p in here.iterdir()) == before


@pytest.mark.skipif(PEFT_PYTHON is None, reason="peft is not installed")
@pytest.mark.parametrize(
    ("family", "algo", "settings"),
    [
        ("llama", "lora", {"rank": 2, "alpha": 8.0}),
        ("gpt2", "ia3", {}),
        ("bert", "lora", {"rank": 2, "alpha": 8.0}),
        ("gpt2", "prompt", {"tokens": 3}),
        ("t5", "lora", {"rank": 2, "alpha": 8.0}),
    ],
)
def test_peft_computes_the_same(tmp_path, monkeypatch, petrun, family, algo, settings):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base", family)
    task = "classify" if family == "bert" else "instruct"
    make_delta(tmp_path / "d.ckpt", tmp_path / "base", algo, task=task, **settings)
    line = f"export d.ckpt --to peft --base base --out adapter --check --peft-python {PEFT_PYTHON}"
    done = petrun(line)
    assert done.code == 0 and "read by peft, differ by at most" in done.out, done.err + done.out
    largest, moved = differences(done.out)
    assert largest < 1e-4 < 1e-3 < moved
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
