"""Compare the logits of base + delta with those of another model made of them, on a few rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor

from petrun import console
from petrun.checkpoint.delta import Delta
from petrun.config.schema import ModelConfig
from petrun.data.formats.encoding import decode_text
from petrun.data.formats.source import read_source
from petrun.data.tasks import CLASS_TASKS
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import ConfigError, DataError, DeltaError
from petrun.evaluate.row_formulas import log_softmax
from petrun.evaluate.score import eval_mode
from petrun.inference.assembly import attach_delta, classes_of, open_base, set_delta
from petrun.inference.stored_base import StoredBase
from petrun.models.base import DECODER_INPUTS, LoadedModel
from petrun.parallel.context import Device, eager, setup
from petrun.tensors import Array
from petrun.tensors.sharded.ranks import root_of

_ROWS, _TOKENS, _SEED = 8, 32, 20
_MOST_ROWS = 64
_USUAL = 10.0
"""The size of logits up to which a tolerance holds as it is. Rounding is a share of each value, so larger logits differ by as much more."""


@dataclass(frozen=True, kw_only=True)
class LogitComparison:
    """Difference of two models' logits on the same rows."""

    largest: float
    """The largest difference between two logits."""
    same_argmax: float
    """Share of positions (for a classifier, of rows) where both have the same argmax."""
    losses: tuple[float, float]
    """Mean cross entropy of the first model and of the second: of the next token; of classes of the first model's."""


def compare_logits(
    first: list[Array], second: list[Array], rows: list[Array], *, continues: bool = True
) -> LogitComparison:
    """Compare logits row by row. first, second: (T, V) or (C,) each; rows: their token ids, (T,) each; `continues`: whether logits (T, V)
    are of the next token, not of classes."""
    largest = max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(first, second, strict=True))
    same = np.concatenate([np.atleast_1d(a.argmax(-1) == b.argmax(-1)) for a, b in zip(first, second, strict=True)])
    sums, count = [0.0, 0.0], 0
    for one, other, ids in zip(first, second, rows, strict=True):
        decoder = one.ndim == 2 and continues
        targets = ids[1:] if decoder else np.atleast_1d(one.argmax(-1))
        for side, logits in enumerate((one, other)):
            kept = logits[: len(targets)] if logits.ndim == 2 else logits[None]
            sums[side] -= float(log_softmax(kept)[np.arange(len(targets)), targets].sum())
        count += len(targets)
    return LogitComparison(
        largest=largest, same_argmax=float(same.mean()), losses=(sums[0] / max(count, 1), sums[1] / max(count, 1))
    )


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A base, and what it answers on a few rows with and without a delta."""

    base: StoredBase
    device: Device
    task: str | None
    classes: int | None
    source: str | None
    """The text file of the rows; None: token ids drawn from a seed."""
    rows: list[Array]
    """Token ids, (T,) int32 each."""
    alone: list[Array]
    """Logits of the base, (T, V) or (C,) float32 each."""
    expected: list[Array]
    """Logits of base + delta."""

    @property
    def largest(self) -> float:
        """The largest logit of base + delta, without its sign."""
        return max(float(np.abs(row).max()) for row in self.expected)

    def compare(self, found: list[Array], name: str, what: str, limit: float, way_out: str) -> None:
        """Print how the logits of `what` differ from those of base + delta; `name` begins the line.

        Raises DeltaError where they differ by more than the limit.
        """
        for expected, row in zip(self.expected, found, strict=True):
            if expected.shape != row.shape:
                raise DeltaError(f"{what} gives logits of shape {row.shape}, and base + delta of {expected.shape}")
        continues = self.task not in CLASS_TASKS
        compared = compare_logits(self.expected, found, self.rows, continues=continues)
        effect = compare_logits(self.alone, self.expected, self.rows, continues=continues).largest
        data = f"{len(self.rows)} rows of {self.source}" if self.source else f"{len(self.rows)} rows of random tokens"
        console.tell(
            f"{name} on {data}: base + delta and {what} differ by at most {compared.largest:.3g} in a logit "
            f"(tolerance {limit:.3g}; the delta itself moves logits by up to {effect:.3g}), the same choice at {compared.same_argmax:.2%} "
            f"of positions, loss {compared.losses[0]:.6f} and {compared.losses[1]:.6f} "
            f"(difference {compared.losses[1] - compared.losses[0]:+.2e})"
        )
        if not compared.largest <= limit:
            raise DeltaError(
                f"{what} is not base + delta: a logit differs by {compared.largest:.3g}, the tolerance is {limit:g}",
                hint=way_out,
            )
        if effect <= limit:
            console.print(f"note: the delta moves no logit by more than the tolerance, so that this {name} says little")


def probe_delta(base: StoredBase, delta: Delta, source: str | None) -> Probe:
    """Compute the logits of the base and of base + delta, in float32. Raises DataError for a file of rows without text, ModelError."""
    device = setup(None, pynative=True)
    classes = classes_of(delta)
    model = ModelConfig(base=str(base.path), family=base.family, base_strategy=base.strategy)
    model = model.model_copy(update={"quant": base.quantisation, "fresh_head": classes is not None})
    task = base.kind.tasks[0] if base.kind else None
    loaded = open_base(model, device, task=task, num_labels=classes, seed=0)
    rows = _rows(source, loaded, root_of(base.path))
    with eager():
        alone = logits_of(loaded, rows)
        expected = logits_with(loaded, delta, rows)
    return Probe(
        base=base, device=device, task=task, classes=classes, source=source, rows=rows, alone=alone, expected=expected
    )


def logits_with(loaded: LoadedModel, delta: Delta, rows: list[Array]) -> list[Array]:
    """Attach the delta to the net, and compute the logits."""
    assembled = attach_delta(loaded, delta)
    set_delta(assembled, delta)
    return logits_of(assembled.loaded, rows)


def tolerance(given: float | None, usual: float, largest: float) -> float:
    """Return the tolerance of a logit: the user's, or the usual one for logits as large as `largest`. Raises ConfigError."""
    if given is not None and not given > 0.0:
        raise ConfigError(f"--tolerance {given:g} must be above 0")
    return given if given is not None else usual * max(1.0, largest / _USUAL)


def _rows(probe: str | None, loaded: LoadedModel, folder: Path) -> list[Array]:
    """Make rows of random tokens, or tokenise the lines of the probe file. Returns (T,) int32 each."""
    longest = min(_TOKENS, loaded.max_positions or _TOKENS)
    if probe is None:
        rng = np.random.default_rng(_SEED)
        sizes = {p.name: tuple(p.shape) for p in loaded.net.get_parameters()}
        embedding = sizes.get(f"{loaded.sites.embedding}.weight")
        vocabulary = embedding[0] if embedding else max(shape[0] for shape in sizes.values())
        return list(rng.integers(0, vocabulary, (_ROWS, longest)).astype(np.int32))
    try:
        text = decode_text(read_source(probe)).text
    except DataError as error:
        raise DataError(f"--probe {error.message}", hint=error.hint) from error
    # Split at line ends only: str.splitlines splits at other characters too.
    lines = [line for line in text.split("\n") if line.strip()]
    tokenizer = load_tokenizer(folder if folder.is_dir() else folder.parent)
    if tokenizer is None:
        raise ConfigError("--probe needs the base's tokenizer", hint="Leave --probe out: random tokens need none.")
    ids = [np.array(tokenizer.encode(line)[:longest], np.int32) for line in lines[:_MOST_ROWS]]
    rows = [row for row in ids if len(row)]
    if not rows:
        raise DataError(f"--probe {probe}: holds no text")
    return rows


def logits_of(loaded: LoadedModel, rows: list[Array]) -> list[Array]:
    """Compute the logits row by row, (T, V) or (C,) float32, without the positions of virtual tokens. Rows of one length go together."""
    found: dict[int, Array] = {}
    with eval_mode(loaded.net):
        for length in dict.fromkeys(map(len, rows)):
            indices = [i for i, row in enumerate(rows) if len(row) == length]
            ids = np.stack([rows[i] for i in indices])
            inputs: dict[str, Array] = {
                "input_ids": ids,
                "segment_ids": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
                DECODER_INPUTS: ids,
                "position_ids": np.tile(np.arange(length, dtype=np.int32), (len(ids), 1)),
            }
            values = loaded.net(*(Tensor(inputs[name]) for name in loaded.inputs)).asnumpy()
            kept = values[:, -length:] if values.ndim == 3 else values
            found.update(zip(indices, kept, strict=True))
    return [found[i] for i in range(len(rows))]
