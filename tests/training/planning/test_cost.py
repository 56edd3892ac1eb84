"""The rule of costs against torch's own count, and against published trainings."""

import pytest

from petrun.errors import ConfigError
from petrun.training.planning.cost import (
    CARDS,
    NetSize,
    card_hours,
    implied_utilisation,
    operations,
    parse_cluster,
    pipeline_busy,
)

# A Llama of 3 layers, hidden 32, feed-forward 48, vocabulary 64, rows 5 x 16, LoRA of rank 2 on q and v: what
# torch.utils.flop_counter.FlopCounterMode (torch 2.13) counts in forward and backward of transformers' net with eager attention.
HIDDEN, WIDE, VOCABULARY, LAYERS, TOKENS, ROW = 32, 48, 64, 3, 80, 16
TORCH = {"full": (4_997_120, 9_994_240), "lora": (5_120_000, 5_140_480)}
MATRICES = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * WIDE) + HIDDEN * VOCABULARY
ADDED = LAYERS * 2 * (2 * HIDDEN + HIDDEN * 2)


def counted(algo):
    added = ADDED if algo == "lora" else 0
    size = NetSize(
        parameters=MATRICES,
        matrices=MATRICES,
        added=added,
        trained_matrices=added or MATRICES,
        trained=added or MATRICES,
        layers=LAYERS,
        width=HIDDEN,
    )
    return operations(size, tokens=TOKENS, row_tokens=ROW, steps=1)


def test_full_training_is_what_torch_counts():
    work = counted("full")
    assert (work.forward, work.backward) == TORCH["full"]
    assert work.optimizer == 14 * MATRICES and work.total == work.forward + work.backward + work.optimizer


def test_lora_is_what_torch_counts_but_for_gradients_of_the_first_layers_input():
    work = counted("lora")
    assert work.forward == TORCH["lora"][0]
    # Nothing below the first layer trains: no gradient of its input by q, k and v, by A, and none of its keys.
    first = TOKENS * 2 * (3 * HIDDEN**2 + 2 * 2 * HIDDEN) + 2 * TOKENS * ROW * HIDDEN
    assert work.backward - first == TORCH["lora"][1]


# Published trainings of models of 38 B and 2.6 B parameters: parameters, tokens, cards, days, whether all of it trains. The tokens of the
# last are not known: as many as a utilisation of 0.3 makes of its days.
@pytest.mark.parametrize(
    ("parameters", "tokens", "cards", "days", "full", "implied", "recomputed"),
    [
        (38e9, 26e9, (128, "910"), 11, True, 0.190, 0.254),
        (38e9, 11e9, (32, "910"), 8, False, 0.295, 0.443),
        (2.6e9, 37.3e9, (8, "a100"), 9, True, 0.300, 0.400),
    ],
)
def test_published_trainings_imply_a_plausible_utilisation(parameters, tokens, cards, days, full, implied, recomputed):
    cards, card = cards
    size = NetSize(
        parameters=int(parameters), matrices=int(parameters), trained_matrices=int(parameters) if full else 0, trained=0
    )
    for again, wanted in (("none", implied), ("full", recomputed)):
        work = operations(size, tokens=tokens, row_tokens=0, steps=0, recompute=again)
        found = implied_utilisation(work, cards, CARDS[card], days * 24)
        assert found == pytest.approx(wanted, abs=5e-4)
        # And back: with this utilisation the rule says these days.
        cluster = parse_cluster(f"{cards}x{card}", None, found, None)
        assert card_hours(work, cluster) / cards / 24 == pytest.approx(days)


def test_full_is_six_and_lora_four_operations_for_a_value_and_token():
    full = NetSize(parameters=10**9, matrices=10**9, trained_matrices=10**9, trained=0)
    lora = NetSize(parameters=10**9, matrices=10**9, trained_matrices=0, trained=0)
    assert operations(full, tokens=1, row_tokens=0, steps=0).total == 6e9
    assert operations(lora, tokens=1, row_tokens=0, steps=0).total == 4e9
    assert operations(lora, tokens=1, row_tokens=0, steps=0, recompute="full").total == 6e9


def test_a_pipeline_waits_for_its_first_and_last_micro_batches():
    assert pipeline_busy(4, 12) == 12 / 15 and pipeline_busy(1, 1) == 1.0
    cluster = parse_cluster("4x910b", None, 0.5, None)
    work = counted("full")
    assert card_hours(work, cluster, 0.5) == 2 * card_hours(work, cluster)


def test_cards_are_named():
    cluster = parse_cluster(" 8 x 910B ", None, None, 2.5)
    assert (cluster.cards, cluster.card.name, cluster.utilisation, cluster.price) == (8, "910b", 0.3, 2.5)
    own = parse_cluster("16x950", 780.0, 0.4, None)
    assert own.card.peak == 780e12 and own.card.source == "--peak"


@pytest.mark.parametrize(
    ("text", "peak", "utilisation", "price", "said"),
    [
        ("910b", None, None, None, "is not a number of cards"),
        ("0x910b", None, None, None, "is not a number of cards"),
        ("8x910x", None, None, None, "peak of '910x' is not known"),
        ("8x910b", -1.0, None, None, "--peak -1.0: must be above 0"),
        ("8x910b", None, 35.0, None, "at most 1"),
        ("8x910b", None, None, 0.0, "--price 0.0: must be above 0"),
    ],
)
def test_cards_that_do_not_read(text, peak, utilisation, price, said):
    with pytest.raises(ConfigError, match=said):
        parse_cluster(text, peak, utilisation, price)
