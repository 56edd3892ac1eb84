"""Metrics of texts through the command line: sacrebleu and rouge_score give the same figures for the predictions file."""

import json
from importlib.metadata import version

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.deltas import make_delta
from tests.tiny import write_base, write_rows

sacrebleu = pytest.importorskip("sacrebleu")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
LIMIT = 6
METRICS = "exact_match,bleu,rouge"


@pytest.fixture
def talker(place):
    """A gpt2 base whose tokens are words."""
    folder = write_base(place / "talker", "gpt2", n_layer=1)
    syllables = [a + b for a in "bdfgklmnprstvwz" for b in "aeiou"]
    words = ["<pad>", "<eos>", "?", *(a + b for a in syllables for b in syllables)][:258]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(words[:2])
    backend.save(str(folder / "tokenizer.json"))
    return words


def predicted(place, petrun, more=""):
    done = petrun(f"predict --base talker --data rows.jsonl --max-new-tokens {LIMIT} --out said.jsonl {more}")
    assert done.code == 0, done.err
    return [json.loads(line) for line in (place / "said.jsonl").read_text().splitlines()]


def references_for(answer, other):
    """Several references of different lengths that share some words with the answer."""
    words = answer.split()
    return [
        " ".join([*words[:-1], *other.split()[:4], "zovu"]),
        " ".join(words[1:4]),
        " ".join([words[-1], *words, *other.split()[-1:]]),
    ]


def wanted(rows, prompts):
    """What the packages say of {prompt: (its first prediction, its references)}."""
    items = {}
    for row, prompt in zip(rows, prompts, strict=True):
        items.setdefault(prompt, (row["prediction"], []))[1].append(row["reference"])
    texts = [text for text, _ in items.values()]
    most = max(len(refs) for _, refs in items.values())
    streams = [[refs[i] if i < len(refs) else None for _, refs in items.values()] for i in range(most)]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    of_rows = [row["prediction"].strip() in items[p][1] for row, p in zip(rows, prompts, strict=True)]
    found = {"bleu": sacrebleu.corpus_bleu(texts, streams).score, "exact_match": sum(of_rows) / len(rows)}
    for kind in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score_multi(refs, text)[kind].fmeasure for text, refs in items.values()]
        found[kind] = sum(each) / len(each)
    return found


@pytest.mark.all_only
def test_all_text_metrics_are_those_of_the_packages(place, petrun, talker):
    """Four prompts: three with several references, one with one that is right; base and delta, one delta and two."""
    make_delta(place / "own.ckpt", place / "talker", "prompt", tokens=2, size=0.9)
    make_delta(place / "low.ckpt", place / "talker", "lora", rank=2, size=0.9)
    asked = [" ".join(talker[i : i + 3]) for i in (10, 60, 110, 170)]
    write_rows(place / "rows.jsonl", [{"prompt": text, "completion": "x"} for text in asked])
    first = [row["prediction"] for row in predicted(place, petrun, "--delta own.ckpt")]
    assert all(2 <= len(text.split()) <= LIMIT for text in first)
    rows = [
        {"prompt": prompt, "completion": reference}
        for i, prompt in enumerate(asked[:3])
        for reference in references_for(first[i], first[(i + 1) % 4])[: 3 - i % 2]
    ]
    rows.append({"prompt": asked[3], "completion": first[3]})
    write_rows(place / "rows.jsonl", rows)
    prompts = [row["prompt"] for row in rows]
    expected = {
        name: wanted(predicted(place, petrun, more), prompts)
        for name, more in (("base", ""), ("own", "--delta own.ckpt"))
    }
    assert 1.0 < expected["own"]["bleu"] < 99.0 and expected["own"]["exact_match"] > 0.0
    line = f"eval --base talker --data rows.jsonl --metrics {METRICS} --max-new-tokens {LIMIT} --out scores.json"
    done = petrun(f"{line} --delta own.ckpt")
    assert done.code == 0, done.err
    found = json.loads((place / "scores.json").read_text())
    for name, key in (("base", "base"), ("own", "delta")):
        assert {metric: found[key][metric] for metric in expected[name]} == pytest.approx(expected[name]), name
    signature = f"nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert found["signatures"]["bleu"] == signature and f"bleu: {signature}" in done.out
    assert f"rouge1, rouge2, rougeL: {found['signatures']['rougeL']}" in done.out
    assert version("rouge-score") in found["signatures"]["rougeL"]

    assert petrun(f"{line} --delta own.ckpt --delta low.ckpt").code == 0
    found = json.loads((place / "scores.json").read_text())
    for name, figures in (("base", found["base"]), ("own", found["deltas"]["own"])):
        assert {metric: figures[metric] for metric in expected[name]} == pytest.approx(expected[name]), name
    assert found["signatures"]["bleu"] == signature
