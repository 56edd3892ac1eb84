"""Which tokenizer is used: the base's, or the one that a delta with rows of tokens brings."""

import json
import shutil

import numpy as np
import pytest

from petrun.checkpoint.delta import BaseIdentity, Delta, Manifest
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.delta.rows import ROWS
from petrun.errors import DeltaError
from petrun.inference.delta_tokenizer import save_tokenizer, tokenizer_folder, tokenizer_for
from tests.tiny import write_base


@pytest.fixture
def folders(tmp_path):
    """A base, and the same with the ids of two tokens exchanged."""
    own = write_base(tmp_path / "base", "llama")
    other = tmp_path / "other"
    shutil.copytree(own, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    first, second = list(vocab)[5:7]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(content))
    return own, other


def delta(folder, trained_with, *, rows=True, brings=True):
    """A delta in a folder of its own, with the tokenizer's files beside it as a run leaves them."""
    folder.mkdir()
    tokenizer = load_tokenizer(trained_with)
    tensors = {f"embed.{ROWS}" if rows else "layers.0.attn.q.mindpet_delta_lora_a": np.zeros((2, 4), np.float32)}
    if brings:
        save_tokenizer(folder / "lora-rows.ckpt", tensors, tokenizer, {"model_type": "llama"})
    manifest = Manifest(algo="rows", base=BaseIdentity(digest=""), tokenizer_digest=tokenizer.digest)
    return Delta(folder / "lora-rows.ckpt", tensors, manifest, algo="rows")


def test_the_tokenizer_of_the_training_is_used(folders, tmp_path, capsys):
    own, other = folders
    run = delta(tmp_path / "run", own)
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.json").is_file()
    assert tokenizer_for(own, [run]).files.folder == own
    assert tokenizer_for(own, []).files.folder == own and not capsys.readouterr().out
    used = tokenizer_for(other, [run])
    assert used.digest == load_tokenizer(own).digest and "trained with is used" in capsys.readouterr().out
    assert tokenizer_folder(run, other) == tmp_path / "run" / "tokenizer"


def test_rows_without_their_tokenizer_are_refused(folders, tmp_path):
    own, other = folders
    run = delta(tmp_path / "run", own, brings=False)
    for ask in (lambda: tokenizer_for(other, [run]), lambda: tokenizer_folder(run, other)):
        with pytest.raises(DeltaError, match="holds rows of tokens, and the tokenizer in"):
            ask()
    # Files that lie there and are not those of the training are no help.
    shutil.copytree(other, tmp_path / "run" / "tokenizer")
    with pytest.raises(DeltaError, match="holds rows of tokens"):
        tokenizer_for(other, [run])


def test_deltas_of_different_tokenizers_are_refused(folders, tmp_path):
    own, other = folders
    third = write_base(tmp_path / "third", "gpt2")
    (third / "tokenizer_config.json").write_text("{}")
    content = json.loads((third / "tokenizer.json").read_text())
    content["added_tokens"] = []
    (third / "tokenizer.json").write_text(json.dumps(content))
    runs = [delta(tmp_path / "a", own), delta(tmp_path / "b", other)]
    with pytest.raises(DeltaError, match="were trained with different tokenizers"):
        tokenizer_for(third, runs)


def test_other_deltas_bring_none_and_are_noted(folders, tmp_path, capsys):
    own, other = folders
    run = delta(tmp_path / "run", own, rows=False)
    assert not (tmp_path / "run" / "tokenizer").exists()
    assert tokenizer_for(other, [run]).files.folder == other
    assert "is not the one that" in capsys.readouterr().out
    assert tokenizer_folder(run, other) == other
