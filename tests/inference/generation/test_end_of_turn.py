"""Answers end where the template ends a turn, though the base's own end-of-sequence token is another one."""

import json

import pytest

from petrun.checkpoint.delta import read_delta
from petrun.inference.generation.session import Session
from tests.tiny import letters, write_base, write_rows

ROWS = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ok."}]}]
TRAIN = "--data rows.jsonl --rank 8 --target all-linear --train-also 'head*' --steps 80 --lr 0.03 --batch-size 1"


def base_with(place, name, *marks, **changes):
    """A llama whose tokenizer has these tokens beside <eos>; without a chat template."""
    folder = write_base(place / name, "llama", vocab_size=258 + len(marks), **changes)
    backend = letters()
    backend.add_special_tokens(list(marks))
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "eos_token": "<eos>"}))
    return folder


@pytest.mark.parametrize(
    "marks",
    [
        pytest.param(("<|im_start|>", "<|im_end|>"), id="token", marks=pytest.mark.all_only),
        pytest.param((), id="text", marks=pytest.mark.all_only),
    ],
)
def test_the_mark_ends_answers_everywhere(place, petrun, marks):
    base_with(place, "own", *marks, max_position_embeddings=128)
    write_rows(place / "rows.jsonl", ROWS)
    done = petrun(
        f"train --base own {TRAIN} --template chatml --eval-data rows.jsonl --set 'eval.metrics=[loss, exact_match]' --out run"
    )
    assert done.code == 0, done.err
    assert "end of text supervised in 1 rows" in done.out and "no row teaches the model to end" not in done.out
    results = json.loads((place / "run" / "results.json").read_text())
    assert results["delta"]["exact_match"] == 1.0 and results["delta"]["loss"] < 0.1
    manifest = read_delta(place / "run").manifest
    assert manifest.end_of_turn == "<|im_end|>"
    assert petrun("predict --base own --delta run --data rows.jsonl --out said.jsonl").code == 0
    assert json.loads((place / "said.jsonl").read_text())["prediction"] == "ok."
    session = Session.open("own", {"own": "run"})
    (answer,) = session.generate([ROWS[0]["messages"][:1]], delta="own")
    assert (answer.text, answer.finish) == ("ok.", "stop")
    assert "".join(session.stream("a", delta="own")) == "ok."
