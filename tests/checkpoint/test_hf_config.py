"""The files beside merged weights."""

import json

from petrun.checkpoint.hf_config import write_companions


def test_files_that_a_base_has_are_copied(tmp_path):
    source, out = tmp_path / "base", tmp_path / "merged"
    source.mkdir()
    out.mkdir()
    for name in ("tokenizer.model", "generation_config.json", "modeling_own.py", "notes.txt"):
        (source / name).write_text(name)
    write_companions(out, {"model_type": "llama"}, source)
    assert {p.name for p in out.iterdir()} == {"config.json", "tokenizer.model", "generation_config.json"}


def test_code_goes_along_where_the_config_names_it(tmp_path):
    """As in ChatGLM's folders, which transformers loads with their code alone; petrun copies it and runs nothing of it."""
    source, out = tmp_path / "base", tmp_path / "merged"
    source.mkdir()
    out.mkdir()
    (source / "modeling_own.py").write_text("raise SystemExit('it was run')")
    (source / "configuration_own.py").write_text("")
    config = {
        "model_type": "chatglm",
        "auto_map": {"AutoModel": "modeling_own.Model", "AutoConfig": "configuration_own.Config"},
    }
    write_companions(out, config, source)
    assert {p.name for p in out.iterdir()} == {"config.json", "modeling_own.py", "configuration_own.py"}
    assert json.loads((out / "config.json").read_text()) == config
