"""params.yaml: what becomes an argument of the boot script, and what is refused."""

import pytest

from petrun.mindpet.task.model_config import arguments_of
from petrun.mindpet.utils.exceptions import MindPetError, ModelConfigKeysInfoError, ModelConfigParamsInfoError


def arguments(path, text, task="finetune"):
    said = []
    path.write_text(text, encoding="utf-8")
    return arguments_of(path, task, said.append), said


def test_params_become_arguments_as_mindpet_writes_them(tmp_path):
    text = "params:\n  learning_rate: 1e-4\n  batch_size: 32\n  shuffle: true\n  bias: -1\n  names: a,b\n"
    words, said = arguments(tmp_path / "p.yaml", text)
    # YAML takes 1e-4 for a text, as it has no dot.
    assert words == "--learning_rate 1e-4 --batch_size 32 --shuffle True --bias -1 --names a,b".split() and not said


def test_freeze_hands_on_the_path_of_the_file(tmp_path):
    path = tmp_path / "p.yaml"
    words, _ = arguments(path, "params: {epochs: 2}\nfreeze: {include: ['*']}\n")
    assert words == ["--epochs", "2", "--advanced_config", str(path)]
    assert arguments(path, "freeze: {anything: 1}\n")[0] == ["--advanced_config", str(path)]


@pytest.mark.parametrize("key", ["data_path", "op", "advanced_config", "timeout"])
def test_an_argument_of_the_command_is_left_out_with_a_warning(tmp_path, key):
    words, (said,) = arguments(tmp_path / "p.yaml", f"params: {{{key}: x, epochs: 1}}")
    assert words == ["--epochs", "1"] and f"params.{key} is left out" in said


@pytest.mark.parametrize(
    ("text", "task", "kind", "part"),
    [
        ("- a", "finetune", ModelConfigKeysInfoError, "must hold params and freeze"),
        ("parms: {a: 1}", "finetune", ModelConfigKeysInfoError, "Did you mean params?"),
        ("freeze: {include: ['*']}", "evaluate", ModelConfigKeysInfoError, "freeze belongs to finetune"),
        ("params:", "infer", ModelConfigParamsInfoError, "must hold lines"),
        ("params: {a: {b: 1}}", "finetune", ModelConfigParamsInfoError, "params.a holds keys of its own"),
        ("params: {a: [1, 2]}", "finetune", ModelConfigParamsInfoError, "params.a is a list"),
        ("params: {a: , b: --c}", "finetune", ModelConfigParamsInfoError, "params.b would be taken for another option"),
        ("params: {a: , b: --c}", "finetune", ModelConfigParamsInfoError, "params.a has no value"),
        ("params: {a: 1, a: 2}", "finetune", MindPetError, "key a stands twice"),
        ("params: {a: 1", "finetune", MindPetError, "line 1"),
    ],
)
def test_what_cannot_become_arguments_is_refused(tmp_path, text, task, kind, part):
    with pytest.raises(kind) as caught:
        arguments(tmp_path / "p.yaml", text, task)
    assert part in caught.value.message and "p.yaml" in caught.value.message
