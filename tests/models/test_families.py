"""The table of families, and texts that must name all of them without importing it."""

import dataclasses

import pytest

from petrun.config.schema import ModelConfig
from petrun.data.tasks import DECODER_TASKS
from petrun.models.base import FamilyConfig
from petrun.models.families import FAMILIES, family_of_type, spell_families
from tests.models.agreement import CHATGLM
from tests.models.reference import BERT, GPT2, LLAMA
from tests.models.t5_cases import T5
from tests.models.transformers_cases import CASES, CLASSIFIERS

CONFIGS = {
    "bert": BERT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "chatglm": CHATGLM,
    "t5": T5,
    **{name: config for name, config in (CASES | CLASSIFIERS).items() if name in FAMILIES},
}


def test_names_for_messages():
    assert (
        spell_families()
        == "bert, gpt2, llama, opt, bloom, glm, chatglm, phi3, gemma, mixtral, qwen3_moe, roberta or t5"
    )
    assert (
        spell_families("instruct", "and")
        == "gpt2, llama, opt, bloom, glm, chatglm, phi3, gemma, mixtral, qwen3_moe and t5"
        and spell_families("classify")
        == "bert, gpt2, llama, opt, bloom, glm, phi3, gemma, mixtral, qwen3_moe or roberta"
    )


def test_a_family_that_continues_texts_does_every_such_task():
    for family in FAMILIES.values():
        # An encoder-decoder has a source beside what it continues.
        known = {"instruct"} if "decoder_input_ids" in family.inputs else set(DECODER_TASKS)
        assert set(family.tasks) & set(DECODER_TASKS) in (set(), known), family.name


def test_every_model_type_has_one_family_and_a_class_of_transformers():
    types = [model_type for family in FAMILIES.values() for model_type in family.model_types]
    assert len(types) == len(set(types))
    for name, family in FAMILIES.items():
        assert family.name == name
        for model_type, cls in family.hf_classes.items():
            assert family_of_type(model_type) is family and cls.endswith(
                ("ForCausalLM", "LMHeadModel", "ForSequenceClassification", "ForConditionalGeneration")
            )
    assert family_of_type("umt5") is None


def test_the_help_names_every_family():
    """The settings' help must not import MindSpore, so it repeats the names; they are held to the table here."""
    assert spell_families() in str(ModelConfig.model_fields["family"].description)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_config_has_the_common_fields(name):
    config = FAMILIES[name].parse(CONFIGS[name])
    assert isinstance(config, FamilyConfig)
    sites = FAMILIES[name].sites(config)
    assert (sites.hidden, sites.heads, sites.kv_heads, sites.layers) == (
        config.hidden, config.heads, config.kv_heads, config.layers,
    )  # fmt: skip
    # Where positions are what the mask says, rows have no limit.
    without = {"positions"} if sites.mask_positions else set()
    # What a family of Llama's net may lack.
    without |= {"near_rope", "query_width"} & {
        key for key, value in dataclasses.asdict(config).items() if value is None
    }
    # What an encoder-decoder alone has, and the limit that its positions, which are distances, do not have.
    without |= {"positions"} if sites.encoder_decoder else {"decoder_start"}
    assert {key for key, value in dataclasses.asdict(config).items() if value is None} == without
