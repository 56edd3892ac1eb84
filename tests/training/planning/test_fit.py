"""What is proposed fits, and says what it costs; amounts of memory are read as they are written."""

import shlex

import pytest

from petrun.errors import ConfigError
from petrun.training.planning.fit import parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("32G", 32 * 2**30), ("32gib", 32 * 2**30), ("1.5 GB", 3 * 2**29), ("800M", 800 * 2**20), ("4096", 4096)],
)
def test_amounts_of_memory(text, count):
    assert parse_bytes(text, "--fit") == count


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "32 cards", "1e3"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ConfigError, match="is no amount of memory"):
        parse_bytes(text, "--fit")


@pytest.fixture
def planned(place, petrun):
    """planned("flags") -> the JSON of `petrun plan` for a llama on cards, which needs no card here."""
    import json

    rows = [{"prompt": "1" * length, "completion": "2"} for length in range(1, 41)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def plan(flags):
        done = petrun(f"plan --base llama --data rows.jsonl --device ascend --batch-size 8 --json {flags}")
        return done.code, json.loads(done.out)

    return plan


def test_every_proposal_fits_when_it_is_followed(planned):
    _, given = planned("--cards 4")
    limit = int(given["memory"]["bytes"] * 0.7)
    code, found = planned(f"--cards 4 --fit {limit}")
    assert code == 2 and f"{limit / 2**20:,.1f} MiB" in found["problem"]
    kinds = {
        tuple(word for word in shlex.split(each["flags"]) if word.startswith("--"))
        for each in found["fit"]["proposals"]
    }
    assert {("--batch-size", "--accumulate"), ("--parallel",), ("--seq-len",)} <= kinds
    for each in found["fit"]["proposals"]:
        code, again = planned(f"--cards 4 {each['flags']} --out new --fit {limit}")
        assert code == 0 and again["problem"] == "", each
        assert again["memory"]["bytes"] <= limit and each["why"], each


def test_the_largest_batch_that_fits_is_proposed_where_there_is_room(planned):
    _, given = planned("")
    limit = int(given["memory"]["bytes"] * 3)
    code, found = planned(f"--fit {limit}")
    (larger,) = found["fit"]["proposals"]
    assert code == 0 and larger["flags"].startswith("--batch-size ") and larger["bytes"] <= limit
    twice = int(larger["flags"].split()[1]) * 2
    assert planned(f"--batch-size {twice}")[1]["memory"]["bytes"] > limit
