"""Rate pairs of question and answer by a reward model: an encoder or a decoder that classifies, whose head has one output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from petrun.config.effect import BASE_KEYS, require_read
from petrun.config.load import load_run_config
from petrun.data.chat.assistant_mask import ChatRenderer
from petrun.data.templates.find_template import find_template
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Encoded, Tokenizer, load_tokenizer
from petrun.errors import ConfigError, ModelError, WeightsError
from petrun.evaluate.score import Runner, eval_mode
from petrun.inference.assembly import open_base
from petrun.inference.base_info import BaseInfo, read_base_info
from petrun.inference.encoder_batches import ENCODERS, LONGEST, by_length, padded
from petrun.models.base import LoadedModel
from petrun.models.families import spell_families
from petrun.parallel.compile_cache import use_compile_cache
from petrun.parallel.context import setup
from petrun.tensors import Array

Pairs = Sequence[tuple[str, str]]


class RewardModel:
    """Rates pairs of texts: an encoder sees [CLS] question [SEP] answer [SEP], as its tokenizer frames a pair; a decoder the conversation,
    as its chat template writes it.
    """

    def __init__(self, loaded: LoadedModel, tokenizer: Tokenizer, longest: int | None, batch_size: int) -> None:
        self.digest = loaded.base_digest
        self.longest = longest or LONGEST
        """Most tokens of a pair."""
        self._loaded, self._tokenizer, self._batch_size = loaded, tokenizer, batch_size
        self._runner = Runner(loaded.net)
        self._renderer: ChatRenderer | None = None
        if loaded.family not in ENCODERS:
            template = Template(name="chat", text=conversation_template(tokenizer))
            self._renderer = ChatRenderer(template, tokenizer.specials, tokenizer.special_texts)

    def _encode(self, pairs: Pairs) -> Encoded:
        if self._renderer is None:
            return self._tokenizer.encode_many(list(pairs))
        texts = [
            self._renderer.text(
                [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "the pair"
            )
            for question, answer in pairs
        ]
        return self._tokenizer.encode_many(texts, special=False)

    def __call__(self, pairs: Pairs, tell: Callable[[int, int], None]) -> Array:
        """Return the reward of each pair, (n,) float64; NaN for one that is too long. `tell`: called with (pairs done, pairs).

        Raises: WeightsError for a reward that is not finite.
        """
        encoded = self._encode(pairs)
        fitting = [i for i, row in enumerate(encoded.ids) if len(row) <= self.longest]
        found = np.full(len(pairs), np.nan)
        done = len(pairs) - len(fitting)
        for chosen in by_length([encoded.ids[i] for i in fitting], self._batch_size):
            numbers = [fitting[i] for i in chosen]
            rows, types = [encoded.ids[i] for i in numbers], [encoded.types[i] for i in numbers]
            given = padded(rows, self._loaded.pad_token_id, self.longest, types)
            with eval_mode(self._loaded.net):
                (outputs,) = self._runner([given[name] for name in self._loaded.inputs])
            if not np.isfinite(outputs).all():
                raise WeightsError(
                    "the reward model gives rewards that are not finite",
                    hint="Its weights hold NaN or infinity, or overflow.",
                )
            found[numbers] = np.asarray(outputs, np.float64)[:, 0]
            tell(done := done + len(numbers), len(pairs))
        return found


def open_reward_model(
    folder: str, flags: Mapping[str, tuple[str, object]], sets: Sequence[str], batch_size: int
) -> RewardModel:
    """Load the reward model of a folder. `flags`, `sets`: settings of device and type. Raises ConfigError, ModelError, WeightsError."""
    if batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size} is below 1")
    resolved = load_run_config(None, {**flags, "model.base": ("--by reward:", str(Path(folder).expanduser()))}, sets)
    require_read(resolved, BASE_KEYS)
    config = resolved.config
    config = config.model_copy(update={"data": config.data.model_copy(update={"task": "classify"})})
    info = read_base_info(config)
    _require_one_output(folder, info)
    tokenizer = None if info.folder is None else load_tokenizer(info.folder)
    if tokenizer is None:
        raise ModelError(f"{folder}: holds no tokenizer", hint="Put tokenizer.json beside config.json.")
    device = setup(config.device, config.model.dtype)
    use_compile_cache(config)
    loaded = open_base(config.model, device, task="classify", num_labels=1, seed=0)
    return RewardModel(loaded, tokenizer, info.longest, batch_size)


def conversation_template(tokenizer: Tokenizer) -> str:
    """Return the template of conversations. Raises ModelError for a tokenizer without one."""
    found = find_template(None, chat_template=tokenizer.chat_template, row_kind="instruction")
    if tokenizer.chat_template is None or found is None or not found.is_chat:
        raise ModelError(
            f"{tokenizer.files.folder}: has no chat template, by which a decoder's reward model reads question and answer",
            hint="Put chat_template.jinja beside config.json.",
        )
    return found.text


def _require_one_output(folder: str, info: BaseInfo) -> None:
    """Raises ModelError where the model has no head with one output that petrun can compute."""
    named = ", ".join(map(str, info.hf_config.get("architectures") or ())) or info.hf_config.get("model_type")
    if "classify" not in info.tasks:
        raise ModelError(
            f"{folder}: is {named}, and petrun computes a reward of {spell_families('classify', 'and')} models alone",
            hint="petrun data rate asks a decoder for a rating in words.",
        )
    if info.num_labels != 1:
        found = "no classification head" if info.num_labels is None else f"a head of {info.num_labels} classes"
        raise ModelError(
            f"{folder}: is {named} with {found}; a reward model has one output",
            hint="petrun train on rows with decimal labels, then petrun merge, makes one.",
        )
