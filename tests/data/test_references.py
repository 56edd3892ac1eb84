"""Several references of one prompt: a list where a completion may stand."""

import pytest

from petrun.errors import DataError
from petrun.evaluate.metrics import METRICS, text_metrics
from petrun.evaluate.text_formulas import ReferencedAnswer
from tests.data.loading import read_examples

ROWS = [
    {"prompt": "the dog", "completion": ["runs fast", "is quick"]},
    {"prompt": "the cat", "completion": "sleeps"},
    {"prompt": "the cow", "completion": ["eats", "eats grass", "stands"]},
]
FIRST = [
    {**row, "completion": row["completion"] if isinstance(row["completion"], str) else row["completion"][0]}
    for row in ROWS
]


def load(path, tokenizer, **given):
    return read_examples(path, task=None, tokenizer=tokenizer, seq_len=256, **given)


@pytest.mark.parametrize(
    "names", [("prompt", "completion"), ("input", "reference"), ("instruction", "output"), ("query", "response")]
)
def test_the_first_is_learned_and_all_are_references(write, bpe, tmp_path, names):
    def named(rows):
        return [dict(zip(names, row.values(), strict=True)) for row in rows]

    path = write("a.jsonl", named(ROWS))
    several, one = load(path, bpe), load(write("b.jsonl", named(FIRST)), bpe)
    assert several.flat["input_ids"].tolist() == one.flat["input_ids"].tolist()
    assert several.flat["labels"].tolist() == one.flat["labels"].tolist()
    assert (
        several.notes == ("2 rows have several references: the first is learned, metrics take all",) and not one.notes
    )
    for _ in range(2):
        prompts = load(path, bpe, for_generation=True, cache_dir=tmp_path / "cache")
        assert prompts.references == ("runs fast", "sleeps", "eats")
        assert prompts.other_references == (("is quick",), (), ("eats grass", "stands"))
        assert prompts.take([2, 0])[0].other_references == ("eats grass", "stands")


@pytest.mark.parametrize("cell", [[], ["a", 1], [None], [["a"]]])
def test_lists_of_other_things(write, bpe, cell):
    with pytest.raises(
        DataError, match=r"line 2: column 'completion' is the list .*, expected a text or a list of texts"
    ):
        load(write("a.jsonl", [ROWS[1], {"prompt": "a", "completion": cell}]), bpe)


def test_metrics_take_all():
    """Against sacrebleu and rouge_score with the same lists; every row counts once."""
    sacrebleu = pytest.importorskip("sacrebleu")
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    texts = ["the dog is quick", "the cat sits on a mat", "the cow stands on the grass"]
    references = [
        ["the dog runs fast", "the dog is quick"],
        ["the cat sleeps on the mat"],
        ["it eats", "the cow stands", "it stands"],
    ]
    answers = [
        ReferencedAnswer(prompt=i, text=text, reference=first, other_references=tuple(others))
        for i, (text, (first, *others)) in enumerate(zip(texts, references, strict=True))
    ]
    found = text_metrics(answers, [METRICS[name] for name in ("exact_match", "bleu", "rougeL")])
    streams = [[refs[k] if k < len(refs) else None for refs in references] for k in range(3)]
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, streams).score)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    best = [scorer.score_multi(refs, text)["rougeL"].fmeasure for text, refs in zip(texts, references, strict=True)]
    assert found["rougeL"] == pytest.approx(sum(best) / 3)
    assert found["exact_match"] == pytest.approx(1 / 3)
