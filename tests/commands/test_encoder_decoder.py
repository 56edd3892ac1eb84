"""An encoder-decoder from the command line: trained, scored, merged, exported; and what has no meaning for it is refused by name."""

import json

import pytest

from tests.tiny import ORDERS, write_rows

TRAIN = "train --base t5 --data orders.jsonl --rank 4 --batch-size 4"
CHAT = {"messages": [{"role": "user", "content": "1+2="}, {"role": "assistant", "content": "3"}]}


def answers(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.all_only
def test_from_train_to_a_merged_base(place, petrun):
    """The delta, its merge and its peft form answer alike, and not as the base does; training saw the figures that eval prints."""
    done = petrun(
        f"{TRAIN} --target q,v,up,down --lr 0.03 --epochs 20 --eval-data orders.jsonl --metrics loss,exact_match "
        "--set eval.max_new_tokens=6 --out run"
    )
    assert done.code == 0, done.err
    assert "4x8+8" in done.out + done.err
    done = petrun("merge --base t5 --delta run --out merged --prove")
    assert done.code == 0, done.err
    done = petrun("delta convert run --to peft --base t5 --out adapter")
    assert done.code == 0, done.err
    assert json.loads((place / "adapter/adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    found = []
    for number, given in enumerate(("t5", "t5 --delta run", "merged", "t5 --delta adapter")):
        out = f"answers-{number}.jsonl"
        done = petrun(f"predict --base {given} --data orders.jsonl --set eval.max_new_tokens=6 --out {out}")
        assert done.code == 0, done.err
        found.append([row["prediction"] for row in answers(place / out)])
    base, delta, merged, adapter = found
    assert len(delta) == len(ORDERS) and delta == merged == adapter != base
    line = "eval --base t5 --delta run --data orders.jsonl --metrics loss,exact_match --set eval.max_new_tokens=6"
    done = petrun(f"{line} --out scores.json")
    assert done.code == 0, done.err
    done = petrun(
        ["generate", "--base", "t5", "--delta", "run", "--max-new-tokens", "6", "--prompt", ORDERS[0]["prompt"]]
    )
    assert done.code == 0 and delta[0] in done.out, done.err


@pytest.mark.all_only
@pytest.mark.parametrize("algo", ["prompt", "ptuning2"])
def test_virtual_tokens_answer_alone(place, petrun, algo):
    done = petrun(f"train --base t5 --data orders.jsonl --algo {algo} --tokens 3 --steps 1 --out run")
    assert done.code == 0, done.err
    done = petrun(["generate", "--base", "t5", "--delta", "run", "--prompt", "3+4=", "--max-new-tokens", "4"])
    assert done.code == 0, done.err
    done = petrun("delta convert run --to peft --base t5 --out adapter")
    if algo == "prompt":
        assert done.code == 0, done.err
    else:
        assert done.code == 1 and "gives several layers the same one" in " ".join(done.err.split()), done.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{TRAIN} --pack", "--pack: has no effect: an encoder-decoder reads each source by itself"),
        (f"{TRAIN} --set data.loss_on=all", "has no effect: an encoder-decoder reads each source by itself, and learns its target alone"),
        (f"{TRAIN} --task lm", "--task lm: this model family cannot do it; it does instruct"),
        (f"{TRAIN} --template chatml", "the template chatml marks the turns of a conversation"),
        (f"{TRAIN} --algo bitfit", "bias"),
        (f"{TRAIN.replace('orders', 'chat')} --template chatml", "the template chatml marks the turns of a conversation"),
        ("rehearse --base t5 --parallel pp=2 --cards 2 --batch-size 2", "pp=2: every layer of a decoder reads the encoder's result"),
        ("data score orders.jsonl --by ifd --base t5 --out scores.jsonl", "an encoder-decoder has no answer alone"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_by_name(place, petrun, line, words):
    write_rows(place / "chat.jsonl", [CHAT])
    line = line.replace("--rank 4 ", "") if "bitfit" in line else line
    done = petrun(line)
    said = " ".join(done.err.split())
    assert done.code in (1, 2) and words in said and "Traceback" not in said, done.err
