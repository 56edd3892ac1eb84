"""Define the record that a model family fills in, and the loaded model that the factory returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from petrun.data.tasks import CLASS_TASKS
from petrun.graph.sites import Sites
from petrun.tensors import TensorReader
from petrun.typing import Cell, JsonObject

DECODER_INPUTS = "decoder_input_ids"
"""The input that an encoder-decoder takes beside its sources: each target behind the token that begins it."""


@dataclass(frozen=True, kw_only=True)
class StoredName:
    """Name and layout of a parameter in a Hugging Face file."""

    name: str
    """Canonical name, as transformers saves the family's task model: `bert.encoder.layer.0...`."""
    transpose: bool = False
    """True for GPT-2's Conv1D weights, stored (in, out); the net holds (out, in)."""
    optional: bool = False
    """Whether a base may lack it: a task head, which is then initialised."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Further names of a matrix that two layers of the net share (tied embeddings): name under which a file may repeat the tensor ->
    name of the parameter that the other layer would have if it had a matrix of its own; "" where no layer of the net would."""
    parts: tuple[str, ...] = ()
    """Of a stack of matrices (E, out, in): the names of its matrices in the files. `name` is that of the stack, which no file has."""
    joined: JoinedName | None = None
    """The same in files that hold stacks: where such a file has this one. Of any parameter: the name that it has in such files."""


@dataclass(frozen=True, kw_only=True)
class JoinedName:
    """A tensor that holds a parameter whole, or a stack (E, out, in) as its rows `begin` to `end` of each matrix."""

    name: str
    begin: int = 0
    end: int | None = None


def untied(names: Mapping[str, StoredName]) -> dict[str, StoredName]:
    """Return the names of the same model with a matrix of its own for every layer. Without a shared matrix: the same names."""
    found: dict[str, StoredName] = {}
    for ours, stored in names.items():
        found[ours] = replace(stored, also={name: own for name, own in stored.also.items() if not own})
        found |= {own: StoredName(name=name) for name, own in stored.also.items() if own}
    return found


def shared_matrices(names: Mapping[str, StoredName]) -> dict[str, str]:
    """Return {head.weight: embed.weight}: parameter that a layer would have of its own -> the one that it shares."""
    return {own: ours for ours, stored in names.items() for own in stored.also.values() if own}


@dataclass(frozen=True, kw_only=True)
class FamilyConfig:
    """Fields of a config that every family has; a family adds those that its own net needs."""

    vocab: int
    """Rows of the token embedding."""
    hidden: int
    layers: int
    heads: int
    """Attention heads, and below their key/value heads; 0 for a net without attention."""
    kv_heads: int
    wide: int
    """Width inside the feed-forward part."""
    positions: int | None
    """Tokens of the longest row; None: no limit."""
    pad_token: int = -1
    """Of a decoder that classifies rows: the id that is never a row's last token; -1: any token may be."""
    init_range: float = 0.02
    """Standard deviation of the weights of a new head."""
    decoder_start: int | None = None
    """Of an encoder-decoder: the token with which every target begins. None: the net is no encoder-decoder."""


def same_raw(raw: JsonObject, folder: Path) -> JsonObject:
    """Return config.json unchanged, for a family that needs nothing else."""
    return raw


def same_config(config: Any, reader: TensorReader) -> Any:
    """Return the config unchanged, for a family that config.json describes completely."""
    return config


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything that other packages need to know about one built-in architecture. No method is named here."""

    name: str
    hf_classes: Mapping[str, str]
    """Value of config.json's `model_type` that this family serves -> the class of transformers whose names a whole model is saved with."""
    tasks: tuple[str, ...]
    """Tasks it can do: "classify", "lm", "instruct", "preference"."""
    inputs: tuple[str, ...]
    """Names of construct's int32 (B, T) inputs, in order."""
    complete: Callable[[JsonObject, Path], JsonObject] = same_raw
    """(config.json, the folder of the tokenizer) -> config.json with what this head needs and the file does not state."""
    parse: Callable[[JsonObject], FamilyConfig]
    """config.json -> the family's frozen config. ModelError names a field that changes the mathematics and is not supported."""
    settle: Callable[[Any, TensorReader], Any] = same_config
    """(config, the base's files) -> config, with what the files alone say. Not called where no weights are read."""
    build: Callable[..., Any]
    """(config, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None) -> nn.Cell. `config`, here and
    below: what `parse` returned."""
    sites: Callable[[Any], Sites]
    names: Callable[[Any], dict[str, StoredName]]
    """Every parameter of the net -> its Hugging Face name."""
    prefixes: tuple[str, ...] = ("",)
    """Prefixes a file may lack: transformers saves BertModel without "bert.", GPT2Model without "transformer."."""
    ignored: tuple[str, ...] = ()
    """Patterns of stored tensors that no parameter needs (position_ids, masked_bias, pretraining heads)."""

    others: tuple[Family, ...] = ()
    """The same architecture with the heads of other tasks: families of the same name, each with its own tasks, classes of transformers,
    net, names and sites."""

    @property
    def has_classes(self) -> bool:
        """Whether the head gives classes, or a number: its outputs are those of the data."""
        return not set(self.tasks).isdisjoint(CLASS_TASKS)

    @property
    def every_task(self) -> tuple[str, ...]:
        """Tasks of this family and of its `others`."""
        return tuple(task for family in (self, *self.others) for task in family.tasks)

    def for_task(self, task: str | None, raw: JsonObject | None = None) -> Family:
        """Return the one of this family and its `others` that does the task; without a task, the one whose class of transformers `raw`,
        a config.json, names; else this one."""
        made_for = str((raw or {}).get("architectures") or "")
        for other in self.others:
            if task in other.tasks or (task is None and any(name in made_for for name in other.hf_classes.values())):
                return other
        return self

    @property
    def model_types(self) -> tuple[str, ...]:
        return tuple(self.hf_classes)


@dataclass(frozen=True, kw_only=True)
class BaseContent:
    """What a base is recognised by."""

    digest: str
    """Of its tensors as they are held; "" where they are not known."""
    quantisation: str = ""
    """Form of the matrices in 8 or 4 bits, int8 or nf4; "" for a base in full precision."""
    original: str = ""
    """The digest of the full-precision base that a quantised one was made from; "" where that is not known."""

    @property
    def full(self) -> str:
        """The digest of the base in full precision; "" where it is not known."""
        return self.original if self.quantisation else self.digest


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A net with its base weights, in eval mode, and the facts about it that later steps need."""

    net: Cell
    """Built-in families: construct(*inputs) -> float32 logits, (B, C) or (B, T, V)."""
    sites: Sites
    family: str
    """"bert", "gpt2", "llama", or "module:function"."""
    model_type: str
    """config.json's model_type ("mistral", "qwen2", ...); equals `family` for a factory."""
    inputs: tuple[str, ...]
    tasks: tuple[str, ...]
    hf_config: JsonObject = field(default_factory=dict)
    """config.json as read; {} for a factory."""
    names: dict[str, StoredName] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    """Parameters the base did not hold and that were initialised from the seed (a new classifier)."""
    base_digest: str = ""
    """SHA-256 over the base's tensors by canonical name, dtype, shape and bytes: independent of path, mtime and sharding."""
    quantisation: str = ""
    """Form of the matrices in 8 or 4 bits, int8 or nf4; "" for a base in full precision."""
    original_digest: str = ""
    """As in BaseContent."""
    any_bits: bool = False
    """Whether a delta may have been trained on the same base in other bits."""
    folder: Path | None = None
    """Folder of config.json and of the tokenizer's files."""
    max_positions: int | None = None
    pad_token_id: int = 0
    eos_token_ids: tuple[int, ...] = ()
    num_labels: int | None = None
    labels: tuple[str, ...] = ()
    """Label names of the base's own head, from config.json's id2label, when it has one."""

    @property
    def is_encoder_decoder(self) -> bool:
        return DECODER_INPUTS in self.inputs

    @property
    def content(self) -> BaseContent:
        return BaseContent(digest=self.base_digest, quantisation=self.quantisation, original=self.original_digest)
