"""What is suggested where a name is unknown."""

from petrun.errors import did_you_mean, nearest, perhaps


def test_a_suggestion_is_never_what_was_given():
    assert nearest("value", ["value", "values"]) == ["values"]
    assert did_you_mean("v", ["v"]) == "" and perhaps("v", ["v", "dense"]) == ""
    assert did_you_mean("v", ["v", "dense"]) == "Known: dense."
    # Another spelling of it is another name.
    assert did_you_mean("LORA", ["lora", "LORA"]) == "Did you mean lora?"
