"""What a base's config.json says of its head, its positions and its tokenizer."""

import pytest

from petrun.config.load import load_run_config
from petrun.errors import ConfigError
from petrun.inference.base_info import own_head, read_base_info
from petrun.models.factory import load_model
from tests.tiny import CLASSIFIERS, CONFIGS, write_base


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, ((), None)),
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}},
            (("bad", "good"), 2),
        ),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, ((), 2)),
        ({"architectures": ["BertForSequenceClassification"], "num_labels": 3}, ((), 3)),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "score"}}, ((), 1)),
        ({"num_labels": 1, "problem_type": "regression"}, ((), 1)),
    ],
)
def test_the_head_of_a_base(config, expected):
    assert own_head(config) == expected


def test_virtual_tokens_take_positions(tmp_path):
    base = write_base(tmp_path / "gpt2", "gpt2")
    config = load_run_config(None, {"model.base": ("--base", str(base))}, []).config
    alone, beside = read_base_info(config), read_base_info(config, 3)
    assert beside.longest == alone.longest - 3 and (alone.virtual_tokens, beside.virtual_tokens) == (0, 3)
    assert alone.folder == base and "instruct" in alone.tasks and alone.num_labels is None
    with pytest.raises(ConfigError, match="virtual tokens leave no room"):
        read_base_info(config, alone.longest - 1)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_vocabulary_is_known_of_every_family(tmp_path, family):
    """ChatGLM2 states it as padded_vocab_size alone, and ids beyond it went unnoticed."""
    base = write_base(tmp_path / family, family)
    config = load_run_config(None, {"model.base": ("--base", str(base))}, []).config
    embedding = load_model(base, **({"num_labels": 2} if family in CLASSIFIERS else {})).net.trainable_params()[0]
    assert read_base_info(config).vocabulary == embedding.shape[0]


def test_a_net_of_the_users_own_says_nothing(tmp_path):
    info = read_base_info(load_run_config(None, {"model.family": ("--model", "module:build")}, []).config)
    assert info.hf_config == {} and info.tasks == ("classify",) and info.longest is None and info.folder is None
    assert info.vocabulary is None
