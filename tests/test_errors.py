"""The codes of the errors, and the names that are suggested where one is unknown."""

import re

import pytest

from petrun import errors
from petrun.errors import (
    ConfigError,
    DataError,
    PetrunError,
    PromptTooLong,
    did_you_mean,
    error_classes,
    nearest,
    perhaps,
)

CODES = {
    "PetrunError": "petrun",
    "ConfigError": "config",
    "DataError": "data",
    "PromptTooLong": "data.prompt_too_long",
    "ModelError": "model",
    "WeightsError": "weights",
    "DeltaError": "delta",
    "TargetError": "target",
    "TrainingError": "training",
    "OutputError": "output",
    "SetupError": "setup",
    "DeviceMemoryError": "setup.device_memory",
    "LinkError": "setup.link",
}


def test_every_class_has_a_code_of_its_own_and_the_docstring_lists_them():
    assert {kind.__name__: kind.class_code for kind in error_classes()} == CODES
    assert dict(re.findall(r"^ *[│├└─ ]*(\w+) +([a-z_.]+)  ", errors.__doc__, re.MULTILINE)) == CODES | {
        "class": "code"
    }


@pytest.mark.parametrize("kind", list(error_classes()), ids=lambda kind: kind.__name__)
def test_a_code_stands_below_that_of_the_parent_class(kind):
    parent = kind.__base__
    if parent not in (Exception, PetrunError):
        assert kind.class_code.startswith(f"{parent.class_code}.")
    assert kind("text").code == kind.class_code


def test_a_place_that_raises_may_say_more():
    assert DataError("text", code="data.columns").code == "data.columns" and DataError("text").code == "data"
    assert PromptTooLong("text").code == "data.prompt_too_long" and ConfigError("text").exit_code == 2


def test_a_suggestion_is_never_what_was_given():
    assert nearest("value", ["value", "values"]) == ["values"]
    assert did_you_mean("v", ["v"]) == "" and perhaps("v", ["v", "dense"]) == ""
    assert did_you_mean("v", ["v", "dense"]) == "Known: dense."
    # Another spelling of it is another name.
    assert did_you_mean("LORA", ["lora", "LORA"]) == "Did you mean lora?"
