"""The flags of delta algorithms say the same as the fields that they set: --help cannot ask those, which import MindSpore."""

import re
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import pytest

from petrun.config.flags import DELTA_FLAGS
from petrun.delta import METHODS


def fields_of(key):
    """Name of a method -> its field of this key."""
    leaf = key.removeprefix("delta.")
    found = {name: method.config.model_fields.get(leaf) for name, method in METHODS.items()}
    return {name: field for name, field in found.items() if field is not None}


def one_value(annotation):
    """(type of one value, several are taken) of a field that may be None."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    (kind,) = [part for part in parts if part is not type(None)]
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return (get_args(kind)[0], True) if get_origin(kind) is tuple else (kind, False)


def words(text):
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("key", DELTA_FLAGS)
def test_a_flag_has_the_type_and_the_default_of_its_fields(key):
    kind, option = DELTA_FLAGS[key]
    fields = fields_of(key)
    assert fields and {one_value(field.annotation) for field in fields.values()} == {(kind, option.separated)}
    if kind is str:
        (default,) = {field.default for field in fields.values()}
        assert default in (None, ()) or str(default) in option.help
    else:
        # One number, or one behind the methods that it is of.
        parts = re.findall(r"([^;]*)[Dd]efault ([\d.]+)(?=[;.])", option.help)
        told = {name: stated for names, stated in parts for name in METHODS if len(parts) == 1 or name in words(names)}
        assert {name: told.get(name) for name in fields} == {
            name: f"{field.default:g}" for name, field in fields.items()
        }


@pytest.mark.parametrize("key", [key for key, (kind, _) in DELTA_FLAGS.items() if kind is not str])
def test_a_flag_names_the_methods_that_it_is_for(key):
    assert words(DELTA_FLAGS[key][1].help) & set(METHODS) == set(fields_of(key))
