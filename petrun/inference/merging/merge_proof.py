"""`petrun merge --prove`: compare the logits of base + delta with those of the merged model. They may differ by rounding only."""

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
from petrun.parallel.context import eager, setup
from petrun.tensors import Array, open_tensors
from petrun.tensors.sharded.ranks import root_of

_ROWS, _TOKENS, _SEED = 8, 32, 20
_MOST_ROWS = 64
# By the type that the merged weights are rounded to, for logits of up to _USUAL. Rounding is a share of each value, so larger logits differ
# by as much more.
_TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "float16": 5e-2, "bfloat16": 5e-1}
_USUAL = 10.0


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


@dataclass(frozen=True)
class MergeProof:
    """Compares base + delta with the merged model on the disk. The merge removes its model where this raises."""

    base: StoredBase
    tolerance: float | None = None
    probe: str | None = None
    """A text file with a row in each line; None: token ids drawn from a seed."""

    def check(self, delta: Delta, merged: Path) -> None:
        """Print how the logits differ. Raises DeltaError where they differ by more than the tolerance."""
        device = setup(None, pynative=True)
        classes = classes_of(delta)
        model = ModelConfig(base=str(self.base.path), family=self.base.family, base_strategy=self.base.strategy)
        model = model.model_copy(update={"quant": self.base.quantisation})
        model = model.model_copy(update={"fresh_head": classes is not None})
        task = self.base.kind.tasks[0] if self.base.kind else None
        loaded = open_base(model, device, task=task, num_labels=classes, seed=0)
        rows = _rows(self.probe, loaded, root_of(self.base.path))
        with eager():
            alone = _logits(loaded, rows)
            assembled = attach_delta(loaded, delta)
            set_delta(assembled, delta)
            expected = _logits(assembled.loaded, rows)
            config = None if merged.is_dir() else str(_config_of(self.base.path))
            again = open_base(
                ModelConfig(base=str(merged), config=config, family=self.base.family),
                device,
                task=task,
                num_labels=classes,
                seed=0,
            )
            found = _logits(again, rows)
        continues = task not in CLASS_TASKS
        self._report(
            compare_logits(expected, found, rows, continues=continues),
            compare_logits(alone, expected, rows, continues=continues).largest,
            len(rows),
            _limit(self.tolerance, merged, max(float(np.abs(row).max()) for row in expected)),
        )

    def _report(self, found: LogitComparison, effect: float, rows: int, limit: float) -> None:
        """Print the comparison, or raise. `effect`: the most by which the delta changes a logit of the base."""
        data = f"{rows} rows of {self.probe}" if self.probe else f"{rows} rows of random tokens"
        console.tell(
            f"proof on {data}: base + delta and the merged model differ by at most {found.largest:.3g} in a logit "
            f"(tolerance {limit:.3g}; the delta itself moves logits by up to {effect:.3g}), the same choice at {found.same_argmax:.2%} "
            f"of positions, loss {found.losses[0]:.6f} and {found.losses[1]:.6f} (difference {found.losses[1] - found.losses[0]:+.2e})"
        )
        if not found.largest <= limit:
            raise DeltaError(
                f"the merged model is not base + delta: a logit differs by {found.largest:.3g}, the tolerance is {limit:g}",
                hint="Rounding to a narrow type costs precision: --dtype float32 keeps it. --tolerance accepts more.",
            )
        if effect <= limit:
            console.print("note: the delta moves no logit by more than the tolerance, so that this proof says little")


def _limit(given: float | None, merged: Path, largest: float) -> float:
    """Return the tolerance: the user's, or that of the merged weights' types. `largest`: of the logits, without sign."""
    if given is not None:
        if not given > 0.0:
            raise ConfigError(f"--tolerance {given:g} must be above 0")
        return given
    reader = open_tensors(merged)
    of_type = max(_TOLERANCES.get(reader.info(name).dtype, 0.0) for name in reader.names) or _TOLERANCES["float32"]
    return of_type * max(1.0, largest / _USUAL)


def _config_of(base: Path) -> Path:
    folder = root_of(base)
    return (folder if folder.is_dir() else folder.parent) / "config.json"


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


def _logits(loaded: LoadedModel, rows: list[Array]) -> list[Array]:
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
