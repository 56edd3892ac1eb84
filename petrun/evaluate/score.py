"""Score a net over a data set: exact means, batch by batch, without training.

B batch, T tokens, V vocabulary, C classes, R rows. A decoder's logits (B, T, V) never leave the device: the
graph reduces them to a loss and a hit per token, and those are summed on the host in float64, by row. So a
figure does not depend on how rows were batched, packed or padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.data.examples.example_set import sequences_per_row
from petrun.data.tasks import DECODER_TASKS, PREFERENCE, TOKENS
from petrun.errors import DataError, WeightsError
from petrun.evaluate.figures import (
    Scores,
    class_scores,
    preference_scores,
    regression_scores,
    require_scored,
    tag_figures,
    tag_scores,
    with_metrics,
)
from petrun.graph.unpacked import call_with
from petrun.kernels import TokenCrossEntropy
from petrun.tensors import Array
from petrun.tensors.targets import IGNORED, is_scored
from petrun.typing import Cell

Batch = Mapping[str, Array]
"""{input name: array, first axis B; "targets": int32 (B, T), already shifted, or (B,), -100 = not scored; "rows": index of each row
in the data's order}."""

Progress = Callable[[int, int], None]
"""(rows done, rows in all)."""


@contextmanager
def eval_mode(net: Cell) -> Iterator[None]:
    """A context manager: dropout is off in its block; afterwards the former mode is set, as a run scores the net that it trains."""
    training = bool(net.training)
    net.set_train(False)
    try:
        yield
    finally:
        net.set_train(training)


class TokenScores(nn.Cell):
    """A decoder's loss and hit for each token.

    Inputs: targets (B, T) int32, already shifted, -100 = ignored; then the net's own inputs.
    Returns: losses (B, T) float32, 0 where ignored or outside the vocabulary; hits (B, T) bool,
    argmax(logits) == target; V, a constant of the graph.
    """

    def __init__(self, net: Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.cross_entropy = TokenCrossEntropy()
        self.known, self.safe, self.none = ops.Less(), ops.Select(), ops.OnesLike()
        self.ignored, self.largest, self.equal = ops.Mul(), ops.Argmax(-1, ms.int32), ops.Equal()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`column`: the logits' classes are sharded over tp ranks, which are gathered to find the largest."""
        rows = (dp,)
        self.known.shard((rows, ()))
        self.safe.shard((rows, rows, rows))
        self.none.shard((rows,))
        self.ignored.shard((rows, ()))
        self.largest.shard(((dp, 1),))
        self.equal.shard((rows, rows))
        self.cross_entropy.set_layout(how, dp, tp)

    def construct(self, targets: Tensor, *inputs: Tensor) -> Tensor:
        logits = call_with(self.net, inputs)
        size = logits.shape[-1]
        flat = ops.reshape(logits, (-1, size))
        wanted = ops.reshape(targets, (-1,))
        # The loss kernel does not check its targets; the caller reports those that are out of range.
        safe = self.safe(self.known(wanted, size), wanted, self.ignored(self.none(wanted), IGNORED))
        losses = self.cross_entropy(flat, safe)
        hits = self.equal(self.largest(flat), wanted)
        return ops.reshape(losses, targets.shape), ops.reshape(hits, targets.shape), size


def scoring_cell(net: Cell, task: str) -> Cell:
    """Return the cell that scores a net: itself for a classifier."""
    return TokenScores(net) if task in DECODER_TASKS else net


class Runner:
    """Calls a compiled cell on batches so that few graphs are compiled: a batch smaller than an earlier one is filled up with copies of its
    last row, whose results are dropped."""

    def __init__(self, cell: Cell, rows: int = 0) -> None:
        """`rows`: the number that each batch must have, where the graph shards it."""
        self.cell = cell
        self.rows = rows
        self._sizes: dict[tuple[object, ...], set[int]] = {}

    def __call__(self, arrays: Sequence[Array]) -> tuple[Any, ...]:
        """Call the cell on arrays (B, ...). Returns its outputs: tensors as numpy arrays of B rows, constants unchanged."""
        rows = len(arrays[0])
        if any(len(a) != rows for a in arrays):
            raise DataError(f"a batch holds arrays of different lengths: {[len(a) for a in arrays]}")
        known = self._sizes.setdefault(tuple((a.dtype, a.shape[1:]) for a in arrays), set())
        size = max(rows, self.rows) if self.rows else min((s for s in known if s >= rows), default=rows)
        known.add(size)
        out = self.cell(*(Tensor(filled(a, size)) for a in arrays))
        outputs = out if isinstance(out, tuple) else (out,)
        return tuple(o.asnumpy()[:rows] if isinstance(o, Tensor) else o for o in outputs)


def filled(array: Array, rows: int) -> Array:
    """Fill up (B, ...) to (rows, ...) with copies of the last row."""
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


@dataclass(frozen=True, kw_only=True)
class RowOutputs:
    """What one pass over some rows of a data set gives for each of them, before figures are computed."""

    rows: Array
    """(R,) int64: numbers of the rows in the data, ascending."""
    values: Array
    """(R, K) float64. Decoders: sum of losses, scored tokens, hits; preference: these three of the chosen answer, then of the rejected
    one; of TOKENS: as tag_figures. Classifiers: label, then a logit for each class; regression: target, prediction."""
    regression: bool
    """The targets are numbers to predict."""


class Scorer:
    """Scores one net again and again without compiling again. Attach deltas before a call, not during it."""

    def __init__(
        self,
        net: Cell,
        inputs: Sequence[str],
        task: str,
        *,
        labels: Sequence[str] = (),
        cell: Cell | None = None,
        rows: int = 0,
    ) -> None:
        """`labels`: names of the tags of TOKENS; `cell`: the `scoring_cell` to call, where its operators are split; `rows`: see Runner."""
        self.labels = tuple(labels)
        self.net = net
        self.inputs = tuple(inputs)
        self.task = task
        self.cell = cell
        self.rows = rows
        self.decoder = task in DECODER_TASKS
        self._parameters: tuple[int, ...] = ()
        self._runner = Runner(net)

    def __call__(self, batches: Iterable[Batch], progress: Progress | None = None, total: int = 0) -> Scores:
        """Score the batches in one pass, in eval mode. `total`: rows in all, for `progress` alone.

        Raises: WeightsError naming the rows whose logits are not finite; DataError for targets that the net
        cannot have, or when nothing is supervised.
        """
        return self.figures(self.outputs(batches, progress, total))

    def outputs(self, batches: Iterable[Batch], progress: Progress | None = None, total: int = 0) -> RowOutputs:
        """Run the pass without computing figures, so that the rows of several ranks can be put together first. No batch: no rows.

        Raises: see the call; nothing that is supervised is no error yet.
        """
        self._renew()
        tell = counter(progress, total)
        with eval_mode(self.net):
            if self.task == TOKENS:
                return self._tags(batches, tell)
            return self._tokens(batches, tell) if self.decoder else self._classes(batches, tell)

    def figures(self, outputs: RowOutputs, base: Array | None = None, desirable: Array | None = None) -> Scores:
        """Compute all figures of the rows. For preference `base`: (R, 2) log-probabilities of both answers by the base, None where the
        outputs are the base's own; `desirable`: (R,), of rows with one answer. Raises DataError when nothing is supervised."""
        rows, values = outputs.rows, outputs.values
        if not len(rows):
            require_scored(0, 0, "row")
        if outputs.regression:
            return regression_scores(rows, values[:, 0], values[:, 1:])
        if self.task == TOKENS:
            return tag_scores(rows, values)
        if not self.decoder:
            # float32 again: figures do not depend on whether rows went through other ranks.
            return class_scores(rows, values[:, 0].astype(np.int64), values[:, 1:].astype(np.float32))
        if self.task == PREFERENCE:
            return preference_scores(rows, values, base, desirable)
        losses, counts, hits = values.T
        require_scored(int(counts.sum()), len(rows), "token")
        scores = Scores(
            metrics={}, rows=rows, losses=losses, counts=counts.astype(np.int64), hits=hits.astype(np.int64)
        )
        return with_metrics(scores, self.task)

    def _renew(self) -> None:
        """Drop this cell's graphs where a delta was attached or detached since the last call."""
        parameters = tuple(id(p) for p in self.net.get_parameters())
        if parameters != self._parameters:
            self._parameters = parameters
            self._runner = Runner(self.cell if self.cell is not None else scoring_cell(self.net, self.task), self.rows)

    def _tokens(self, batches: Iterable[Batch], tell: Callable[[int], None]) -> RowOutputs:
        sums: dict[int, Array] = {}
        for batch in batches:
            targets = np.asarray(batch["targets"])
            arrays = [np.asarray(batch[name]) for name in self.inputs]
            losses, hits, size = self._runner([targets, *arrays])
            owner, rows = _owners(batch, targets)
            _check_targets(targets, int(size), owner)
            _check_finite(np.isfinite(losses), owner)
            scored = is_scored(targets)
            answers = self._answers(batch, targets)
            for row in rows:
                mine = scored & (owner == row)
                part = np.concatenate([_token_sums(losses, hits, mine & each) for each in answers])
                sums[int(row)] = sums.get(int(row), np.zeros(len(part))) + part
            tell(len(rows))
        order = sorted(sums)
        values = np.array([sums[row] for row in order], np.float64).reshape(-1, 3 * sequences_per_row(self.task))
        return RowOutputs(rows=np.array(order, np.int64), values=values, regression=False)

    def _tags(self, batches: Iterable[Batch], tell: Callable[[int], None]) -> RowOutputs:
        parts: list[tuple[int, Array]] = []
        for rows, outputs, batch in _forward(self._runner, batches, self.inputs):
            targets = batch["targets"]
            if outputs.ndim != 3 or targets.shape != outputs.shape[:2]:
                raise DataError(f"tags need logits (B, T, C); the model gave {outputs.shape} for tags {targets.shape}")
            scored, (owner, _) = is_scored(targets), _owners(batch, targets)
            _check_targets(targets, outputs.shape[-1], owner)
            _check_finite(np.isfinite(outputs.max(axis=-1)) | ~scored, owner)
            for row, mine, labels, values in zip(rows.tolist(), scored, targets, outputs, strict=True):
                parts.append((row, tag_figures(self.labels, labels[mine], values[mine])))
            tell(len(rows))
        parts.sort(key=lambda part: part[0])
        values = np.array([part for _, part in parts], np.float64).reshape(-1, 6)
        return RowOutputs(rows=np.array([row for row, _ in parts], np.int64), values=values, regression=False)

    def _answers(self, batch: Batch, targets: Array) -> list[Array]:
        """Return where the tokens of each answer of a row are: (B, T) bool each."""
        if self.task != PREFERENCE:
            return [np.ones(targets.shape, bool)]
        segments = np.asarray(batch["segment_ids"])
        return [segments == 1, segments == 2]

    def _classes(self, batches: Iterable[Batch], tell: Callable[[int], None]) -> RowOutputs:
        parts: list[tuple[Array, Array]] = []
        regression = False
        for rows, outputs, batch in _forward(self._runner, batches, self.inputs):
            targets = np.asarray(batch["targets"])
            if outputs.ndim != 2 or targets.shape != (len(outputs),):
                raise DataError(
                    f"classification needs logits (B, C) and one label a row; the model gave {outputs.shape} "
                    f"for labels {targets.shape}"
                )
            regression = targets.dtype.kind == "f"
            if regression:
                values = _one_output(outputs, rows)
            else:
                _check_targets(targets, outputs.shape[-1], rows)
                # -infinity is a class that the model rules out; a row needs one finite logit and no NaN.
                _check_finite(np.isfinite(outputs.max(axis=-1)), rows)
                values = outputs
            parts.append((rows, np.concatenate([targets[:, None], values], axis=1, dtype=np.float64)))
            tell(len(rows))
        if not parts:
            return RowOutputs(rows=np.zeros(0, np.int64), values=np.zeros((0, 0)), regression=regression)
        rows, found = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(rows, kind="stable")
        return RowOutputs(rows=rows[order], values=found[order], regression=regression)


def score(
    net: Cell,
    batches: Iterable[Batch],
    inputs: Sequence[str],
    task: str,
    progress: Progress | None = None,
    total: int = 0,
) -> Scores:
    """Score in one pass, in eval mode. See Scorer, which keeps its graphs for the next pass."""
    return Scorer(net, inputs, task)(batches, progress, total)


def logits(
    net: Cell,
    batches: Iterable[Batch],
    inputs: Sequence[str],
    progress: Progress | None = None,
    total: int = 0,
) -> Iterator[tuple[Array, Array]]:
    """Yield (rows (B,) int64, logits (B, C) or (B, T, V) float32) of each batch; needs no targets.

    Raises: WeightsError naming the rows that hold NaN, or nothing finite, at a position that is not padding.
    """
    tell = counter(progress, total)
    runner = Runner(net)
    for rows, outputs, batch in _forward(runner, batches, inputs):
        finite = np.isfinite(outputs.max(axis=-1))
        if finite.ndim == 2 and "segment_ids" in batch:
            finite = finite | (np.asarray(batch["segment_ids"]) == 0)
        _check_finite(finite.reshape(len(rows), -1).all(axis=1), rows)
        yield rows, outputs
        tell(len(rows))


def _forward(runner: Runner, batches: Iterable[Batch], inputs: Sequence[str]) -> Iterator[tuple[Array, Array, Batch]]:
    for batch in batches:
        # Per batch, not around the loop: a caller that stops half-way must not leave the net changed.
        with eval_mode(runner.cell):
            (outputs,) = runner([np.asarray(batch[name]) for name in inputs])
        rows = np.asarray(batch["rows"], np.int64)
        if len(rows) != len(outputs):
            raise DataError(f"the model gave {len(outputs)} rows of logits for {len(rows)} rows of data")
        yield rows, np.asarray(outputs, np.float32), batch


def _token_sums(losses: Array, hits: Array, chosen: Array) -> Array:
    """Return (sum of losses, tokens, hits) of the chosen positions: (3,) float64."""
    return np.array([losses[chosen].sum(dtype=np.float64), np.count_nonzero(chosen), np.count_nonzero(hits & chosen)])


def _owners(batch: Batch, targets: Array) -> tuple[Array, Array]:
    """Return ((B, T) int64: the row of the data that each position belongs to, -1 = padding; the batch's rows).

    In a packed batch `rows` is longer than B: segments 1, 2, ... of the first sequence, then those of the
    second, and so on.
    """
    rows = np.asarray(batch["rows"], np.int64)
    if len(rows) == len(targets):
        return np.repeat(rows[:, None], targets.shape[1], axis=1), rows
    segments = np.asarray(batch["segment_ids"], np.int64)
    most = segments.max(axis=1)
    if int(most.sum()) != len(rows):
        raise DataError(f"a packed batch holds {int(most.sum())} segments for {len(rows)} rows")
    before = np.cumsum(most) - most
    return np.where(segments > 0, rows[np.maximum(before[:, None] + segments - 1, 0)], -1), rows


def _check_targets(targets: Array, size: int, owner: Array) -> None:
    wrong = is_scored(targets) & ((targets < 0) | (targets >= size))
    if wrong.any():
        target, row = int(targets[wrong][0]), int(owner[wrong][0])
        raise DataError(
            f"target {target} of row {row} is not in 0..{size - 1}, which the model knows",
            hint="The data's labels, or its token ids, do not belong to this model.",
        )


def _one_output(outputs: Array, owner: Array) -> Array:
    """Return (B, 1) finite predictions. Raises DataError for another shape, WeightsError for values that are not finite."""
    if outputs.shape[-1] != 1:
        raise DataError(
            f"the labels are numbers to predict, and the model has {outputs.shape[-1]} outputs, one for each class",
            hint="Give labels of its classes, or train a model with one output on these rows.",
        )
    _check_finite(np.isfinite(outputs[:, 0]), owner)
    return outputs


def _check_finite(finite: Array, owner: Array) -> None:
    if not finite.all():
        raise not_finite(owner[~finite])


def not_finite(rows: Array) -> WeightsError:
    """Return the error for rows (any shape, repeats allowed) whose logits are NaN or infinite."""
    named = np.unique(rows)
    shown = ", ".join(str(int(r)) for r in named[:10]) + (", ..." if len(named) > 10 else "")
    return WeightsError(
        f"the model's logits are NaN or infinite for row{'s' if len(named) > 1 else ''} {shown}",
        hint="A weight of base or delta is not finite, or float16 overflows: try --set model.dtype=float32.",
    )


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return a function that takes rows done at a time and reports (rows done so far, rows in all)."""
    done = 0

    def tell(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, max(total, done))

    return tell
