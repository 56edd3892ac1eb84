"""`petrun plan --on`: the net is counted by its own cells, and every row of the table follows from the rule."""

import json

import pytest

from petrun.delta import find_method
from petrun.graph.freeze import trainable_of
from petrun.inference.assembly import attach
from petrun.models.factory import outline_model
from petrun.training.planning.cost_table import net_size
from tests.curation.rows import write_jsonl
from tests.tiny import write_base


def sized(folder, algo, **changes):
    loaded = outline_model(write_base(folder, "llama", **changes))
    method = find_method(algo)
    config = method.config(rank=2, target=("q",)) if algo == "lora" else method.config()
    assembled = attach(loaded, method, config, 0, ())
    for parameter in loaded.net.get_parameters():
        parameter.requires_grad = parameter.name in assembled.owned
    return net_size(assembled, trainable_of(loaded.net)), {p.name: p for p in loaded.net.get_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_a_net_is_counted_by_its_matrices(tmp_path, tied):
    size, parameters = sized(tmp_path, "full", tie_word_embeddings=tied)
    layers = sum(int(p.size) for name, p in parameters.items() if p.ndim == 2 and name.startswith("layers."))
    table = int(parameters["embed.weight"].size)
    # The embedding is a lookup; the head is a product, tied or not.
    assert size.matrices == size.trained_matrices == layers + table and size.added == 0
    assert size.parameters == size.trained == sum(int(p.size) for p in parameters.values())


def test_a_lora_is_counted_beside_it(tmp_path):
    full, _ = sized(tmp_path / "full", "full")
    size, parameters = sized(tmp_path / "lora", "lora")
    added = sum(int(p.size) for name, p in parameters.items() if "mindpet_delta" in name)
    assert (size.matrices, size.parameters) == (full.matrices, full.parameters)
    assert size.added == size.trained_matrices == size.trained == added > 0


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_base(tmp_path / "llama", "llama")
    write_jsonl(tmp_path / "orders.jsonl", [{"prompt": f"{n}+1=", "completion": f"{n + 1}"} for n in range(32)])


def test_a_plan_says_what_a_run_costs(rows, petrun):
    flags = "plan --base llama --data orders.jsonl --rank 2 --on 8x910b --utilisation 0.4 --price 3 --batch-size 2"
    done = petrun(f"{flags} --json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["cost"]
    rows = found["rows"]
    assert {row["algo"] for row in rows} == {"lora", "full"}
    by_algo = {row["algo"]: row for row in rows if row["layout"] == "dp=8,tp=1,pp=1" and row["recompute"] == "none"}
    passes = {algo: row["work"]["forward"] + row["work"]["backward"] for algo, row in by_algo.items()}
    assert 1.2 < passes["full"] / passes["lora"] < 1.5
    for row in rows:
        assert row["hours"] * 8 == pytest.approx(row["card_hours"]) and row["price"] == pytest.approx(
            3 * row["card_hours"]
        )
        work = sum(row["work"].values())
        assert row["card_hours"] >= work / (280e12 * 0.4) / 3600 * (1 - 1e-9)
    measured = petrun(f"{flags.replace('--utilisation 0.4', '--throughput 5e4')}")
    assert measured.code == 0 and "(measured)" in measured.out and "8 x 910b" in measured.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--price 3", "--price: says what cards do, and no cards are named"),
        ("--on 8x910b --throughput 1e15", "times the peak of a 910b"),
        ("--on 8x910b --throughput 10 --utilisation 0.1", "--throughput contradicts --utilisation"),
    ],
)
def test_what_contradicts_is_refused(rows, petrun, flags, said):
    done = petrun(f"plan --base llama --data orders.jsonl {flags}")
    assert done.code == 2 and said in " ".join(done.err.split())
