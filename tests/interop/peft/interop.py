"""What petrun writes for other libraries, as cases: a folder each, and a digest of what is in it.

Every number of bases and deltas is a small multiple of 1/64, so that sums and products are exact in float32 and the files of an export
are the same on every processor. `python -m tests.interop.peft.interop`, where torch, transformers and peft are installed, loads every
case with these, compares the logits and stores the digests; test_interop.py holds the exports against them where the libraries are missing.
"""

import hashlib
import importlib.metadata
import json
import tempfile
import zlib
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.checkpoint.delta import BaseIdentity, Manifest, TaskInfo, save_delta
from petrun.commands import export, merge
from petrun.config.commands.merge import MergeSettings
from petrun.delta import find_method
from petrun.inference.assembly import attach, head_names, values_of
from petrun.models.factory import load_model
from petrun.tensors import TensorEntry, content_digest, open_tensors, tensor_digest, write_safetensors
from tests.tiny import write_base

STORED = Path(__file__).with_name("interop_digests.json")
FAMILIES = ("bert", "gpt2", "llama")
CLASSES = {
    "peft": {"lora": ("gpt2", "llama"), "ia3": ("llama",), "prompt": ("gpt2",)},
    "merged": {"lora": ("gpt2", "llama"), "full": ("gpt2",)},
}
TAGS = {"peft": {"lora": ("bert", "roberta")}, "merged": {"lora": ("bert", "roberta")}}
"""Decoders that classify rows: kind -> method -> families, which the cases spell gpt2-classes."""
PEFT = {
    "lora": {"rank": 4, "alpha": 8.0},
    "lora-rslora": {"rank": 4, "alpha": 8.0, "variant": "rslora"},
    "lora-dora": {"rank": 4, "alpha": 8.0, "variant": "dora"},
    "lora-tied": {"rank": 4, "alpha": 8.0, "target": ("all-linear", "embed", "head")},
    "lora-whole": {"rank": 4, "alpha": 8.0, "target": ("all-linear", "head")},
    "lora+bitfit": {"rank": 4, "alpha": 8.0},
    "adalora": {"init_rank": 4, "rank": 2},
    "ia3": {},
    "loha": {"rank": 3, "alpha": 6.0},
    "lokr": {"rank": 1, "alpha": 2.0, "target": ("all-linear",)},
    "vera": {"rank": 4, "target": ("all-linear",)},
    "oft": {"block_size": 4, "target": ("all-linear",)},
    "miss": {"rank": 5, "target": ("all-linear",)},
    "prompt": {"tokens": 3},
    "ptuning": {"tokens": 3, "middle": 5},
    "ptuning2": {"tokens": 3},
    "prefix": {"tokens": 3, "middle": 5},
}
COMPUTED = ("ptuning", "prefix")
"""What their networks give is exported: it differs in the last bits from processor to processor, so its values are left out."""
TIED = {"lora-tied": (), "lora-whole": ("embed.weight",)}
"""On bases whose head and embedding share a matrix: what trains beside the method."""
NO_CONV1D = ("loha", "lokr", "oft", "miss")
"""peft has none of these for GPT-2's Conv1D."""
MERGED = ("lora", "lora-rslora", "ia3", "bitfit", "full")
TOKENS = 6
LIBRARIES = ("torch", "transformers", "peft")


def cases():
    """(kind, method, family), `peft` folders and `merged` folders."""
    for method in PEFT:
        for family in FAMILIES:
            # A llama has no biases, and that peft cannot put prefixes before a BERT's keys.
            left_out = (("lora+bitfit", "llama"), ("ptuning2", "bert"), ("prefix", "bert"))
            others = (*((tied, "bert") for tied in TIED), *((each, "gpt2") for each in NO_CONV1D))
            if (method, family) not in (*left_out, *others):
                yield "peft", method, family
    for method in MERGED:
        for family in FAMILIES:
            if (method, family) != ("bitfit", "llama"):
                yield "merged", method, family
    for what, table in (("classes", CLASSES), ("tags", TAGS)):
        for kind, methods in table.items():
            for method, families in methods.items():
                yield from ((kind, method, f"{family}-{what}") for family in families)


def task_of(family):
    if family.endswith("-tags"):
        return "tokens"
    return "classify" if family == "bert" or family.endswith("-classes") else "lm"


def make(kind, method, family, folder):
    """Write the case's base, delta and export into `folder`. Returns the export and the net with the delta in it."""
    architecture = family.removesuffix("-classes").removesuffix("-tags")
    base = exact_base(folder / "base", architecture, **({"tie_word_embeddings": True} if method in TIED else {}))
    task = task_of(family)
    loaded = load_model(base, task=task, num_labels=None if task == "lm" else 2)
    found = find_method(method.partition("-")[0])
    config = found.config(**PEFT.get(method, {}))
    assembled = attach(loaded, found, config, 0, head_names(loaded, TIED.get(method, ())))
    for p in loaded.net.get_parameters():
        # Which triplets are kept is a mask, not a number.
        if p.name in assembled.owned and p.name.rpartition(".")[2] not in found.fixed:
            p.set_data(Tensor(exact(p.name, p.shape)))
    write_delta(folder / "delta.ckpt", assembled, architecture, task)
    out = folder / "out"
    if kind == "peft":
        export.run(base=str(base), delta=str(folder / "delta.ckpt"), out=str(out))
    else:
        merge.run(MergeSettings(base=str(base), deltas=(str(folder / "delta.ckpt"),), out=str(out)))
    return out, assembled.loaded


def write_delta(path, assembled, family, task):
    """What is attached to a net as a run would save it."""
    loaded = assembled.loaded
    manifest = Manifest(
        algo=assembled.method.name,
        config=assembled.config.model_dump(mode="json"),
        family=family,
        model_type=family,
        hf_config=loaded.hf_config,
        base=BaseIdentity(digest=loaded.base_digest, fresh=loaded.fresh),
        task=TaskInfo(name=task),
    )
    save_delta(path, values_of(loaded.net, assembled.owned), manifest)


def exact(name, shape):
    """(shape) float32, multiples of 1/64 between -1/4 and 1/4 that look like noise and depend on the name."""
    count = int(np.prod(shape))
    mixed = (
        np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))
    ) >> np.uint64(7)
    return (((mixed % np.uint64(33)).astype(np.float32) - 16) / 64).reshape(shape)


def exact_base(folder, family, **changes):
    """The tiny base with numbers of that kind; `changes` go into its config.json."""
    write_base(folder, family, **changes)
    reader = open_tensors(folder / "model.safetensors")
    shapes = {name: reader.info(name).shape for name in reader.names}
    entries = [TensorEntry(n, s, "float32", lambda n=n, s=s: exact(n, s)) for n, s in shapes.items()]
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})
    return folder


def digest_of(method, out):
    """SHA-256 (hex) of the folder: JSON by meaning, other texts by bytes, tensors by name, type, shape and, but for COMPUTED, bytes."""
    digest = hashlib.sha256()
    for path in sorted(out.iterdir()):
        digest.update(path.name.encode() + b"\0")
        if path.suffix == ".json":
            settings = json.loads(path.read_text())
            # Where the base lay on this machine.
            settings.pop("base_model_name_or_path", None)
            digest.update(json.dumps(settings, sort_keys=True).encode())
        elif path.suffix == ".safetensors":
            reader = open_tensors(path)
            lines = [
                (name, reader.info(name).dtype, reader.info(name).shape, _values(method, reader, name))
                for name in reader.names
            ]
            digest.update(content_digest(lines).encode())
        else:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _values(method, reader, name):
    return "" if method in COMPUTED else tensor_digest(reader, name)


def logits(loaded):
    """Of two rows of TOKENS tokens: the ids, and what the net gives."""
    ids = np.random.default_rng(1).integers(4, 12, (2, TOKENS)).astype(np.int32)
    table = {"input_ids": ids, "segment_ids": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    table["position_ids"] = np.tile(np.arange(TOKENS, dtype=np.int32), (2, 1))
    loaded.net.set_train(False)
    return ids, loaded.net(*(Tensor(table[name]) for name in loaded.inputs)).asnumpy()


def in_theirs(kind, family, folder, out, ids):
    """The logits that transformers, or peft on top of it, computes from the export."""
    import torch
    import transformers

    kinds = {"lm": "CausalLM", "classify": "SequenceClassification", "tokens": "TokenClassification"}
    auto = getattr(transformers, f"AutoModelFor{kinds[task_of(family)]}")
    if kind == "peft":
        import peft

        model = peft.PeftModel.from_pretrained(auto.from_pretrained(folder / "base"), out).eval()
    else:
        model = auto.from_pretrained(out).eval()
    with torch.no_grad():
        inputs = torch.from_numpy(ids.astype(np.int64))
        found = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits.numpy()
    return found[:, -TOKENS:] if task_of(family) == "lm" else found


def main():
    """Verify every case with the libraries and store its digest."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    stored = {}
    for kind, method, family in cases():
        with tempfile.TemporaryDirectory() as text:
            out, loaded = make(kind, method, family, Path(text))
            ids, ours = logits(loaded)
            np.testing.assert_allclose(in_theirs(kind, family, Path(text), out, ids), ours, atol=1e-4)
            stored[f"{kind} {method} {family}"] = digest_of(method, out)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    STORED.write_text(json.dumps({"verified_with": versions, "digests": stored}, indent=1) + "\n")
    print(f"{len(stored)} exports verified with {versions}")


if __name__ == "__main__":
    main()
