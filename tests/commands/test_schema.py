"""`petrun schema` prints the schema, or writes it once."""

import json


def test_it_is_printed_and_written(tmp_path, monkeypatch, petrun):
    monkeypatch.chdir(tmp_path)
    printed = json.loads(petrun("schema").out)
    done = petrun("schema --out recipe.schema.json")
    assert json.loads((tmp_path / "recipe.schema.json").read_text()) == printed
    assert "# yaml-language-server: $schema=recipe.schema.json" in done.out
    again = petrun("schema --out recipe.schema.json")
    assert again.code == 1 and "--force" in again.err and petrun("schema --out recipe.schema.json --force").code == 0
