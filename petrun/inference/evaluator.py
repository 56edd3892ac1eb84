"""Score a net: metrics of one forward pass, and metrics of generated text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from petrun import console
from petrun.checkpoint.delta_method import method_of
from petrun.cluster.world import ALONE, World
from petrun.console import progress
from petrun.data.batches.buckets import Batching, plan_batches
from petrun.data.chat.end_of_turn import NO_END_OF_TURN, EndOfTurn
from petrun.data.examples.example_set import ExampleSet
from petrun.data.tasks import PREFERENCE
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.evaluate.figures import Scores
from petrun.evaluate.generate import Generation, TextGenerator
from petrun.evaluate.metrics import Metric, signatures, text_metrics
from petrun.evaluate.score import RowOutputs, Scorer, scoring_cell
from petrun.evaluate.text_formulas import ReferencedAnswer
from petrun.inference.assembly import attach_delta, set_delta
from petrun.inference.preference import base_log_probs_of, desirable_of, with_base_log_probs
from petrun.inference.rows import scoring_batches
from petrun.inference.settings import InferenceSettings
from petrun.models.base import LoadedModel
from petrun.parallel import plan
from petrun.parallel.layout import Layout
from petrun.tensors import Array
from petrun.typing import Cell


@dataclass(kw_only=True)
class Evaluator:
    """Scores a net on the same rows again and again, while the net changes."""

    loaded: LoadedModel
    task: str
    metrics: tuple[Metric, ...]
    examples: ExampleSet
    prompts: ExampleSet | None
    """The same rows as prompts with references; None where no metric needs generation."""
    tokenizer: Tokenizer | None
    batch_size: int
    buckets: int
    seq_len: int
    max_new_tokens: int
    scorer: Scorer
    world: World = ALONE
    """The ranks that share the rows, each with the same net. Every rank must score at the same point, and gets the figures of all rows."""
    end_of_turn: EndOfTurn = NO_END_OF_TURN
    """Tokens and texts that end an answer beside the end-of-sequence tokens of model and tokenizer."""
    generator: TextGenerator | None = field(default=None, init=False)
    """Built when the first text is generated, and kept with its compiled graphs."""
    outputs: RowOutputs | None = field(default=None, init=False)
    """What the last pass gave for each row."""
    texts: list[str] | None = field(default=None, init=False)
    """The last answers to the prompts, where a metric needed them."""
    signatures: dict[str, str] = field(default_factory=dict, init=False)
    """How the metrics of those answers were computed: which tokeniser, how many references."""

    def score(self, label: str, generated: bool = True) -> dict[str, float]:
        """Compute the metrics; `generated` False leaves out those of generated text. `label`: for the progress bar."""
        scores = self.forward(label)
        found = {m.name: scores.metrics[m.name] for m in self.metrics if m.name in scores.metrics}
        if not found:
            found = {"loss": scores.metrics["loss"]}
        if generated and self.prompts is not None:
            self.texts = self.answers(label)
            answers = [
                ReferencedAnswer(
                    prompt=tuple(self.prompts[i].input_ids.tolist()),
                    text=text,
                    reference=self.prompts[i].require_reference(),
                    other_references=self.prompts[i].other_references,
                )
                for i, text in enumerate(self.texts)
            ]
            found.update(text_metrics(answers, self.metrics))
            self.signatures = signatures(answers, self.metrics)
        return found

    def use_net(self, loaded: LoadedModel) -> None:
        """Score this net from now on: the same, with a delta attached. Virtual tokens leave fewer positions for answers."""
        if loaded.max_positions != self.loaded.max_positions:
            self.generator = None
        self.loaded = loaded

    @property
    def batching(self) -> Batching:
        """Batches of one pass."""
        return plan_batches(
            self.examples.batch_lengths,
            batch_size=self.batch_size,
            seq_len=self.examples.longest_row(self.seq_len),
            buckets=self.buckets,
            order="length",
            arrays=self.examples.is_arrays,
        )

    def forward(self, label: str) -> Scores:
        """Run one pass over the examples."""
        self.outputs = self._outputs(label)
        rows, numbers = self.examples, self.outputs.rows
        return self.scorer.figures(self.outputs, base_log_probs_of(rows, numbers), desirable_of(rows, numbers))

    def use_as_base(self) -> None:
        """Take the last pass for that of the base, with which later ones on rows of preference are compared."""
        if self.outputs is not None and self.task == PREFERENCE:
            self.examples = with_base_log_probs(self.examples, self.outputs)

    def _outputs(self, label: str) -> RowOutputs:
        world = self.world
        plan = self.batching.epoch(0).part(world.rank, world.size)
        batches = scoring_batches(self.examples, plan, self.loaded.inputs, self.loaded.pad_token_id)
        # An error in the rows of one rank must not leave the others waiting for its figures.
        with world.fail_together():
            found = self.scorer.outputs(batches, progress(f"score {label}"), sum(size for size, *_ in plan.shapes))
        if world.size > 1:
            # Numbers of rows in the data have gaps where some were dropped or are trained on.
            rows = np.sort(self.examples.per_row["row"].astype(np.int64))
            values = world.gathered(np.searchsorted(rows, found.rows), found.values, len(rows))
            found = RowOutputs(rows=rows, values=values, regression=self.examples.is_regression)
        return found

    def answers(self, label: str) -> list[str]:
        """Answer the prompts greedily, as text, in the data's order."""
        assert self.prompts is not None
        if self.generator is None:
            self.generator = open_generator(self.loaded, self.tokenizer, self.batch_size)
        world, total = self.world, len(self.prompts)
        own = np.arange(world.rank, total, world.size)
        with world.fail_together():
            found = generate_answers(
                self.generator,
                self.prompts.take(own) if world.size > 1 else self.prompts,
                self.max_new_tokens,
                f"generate {label}",
                end_of_turn=self.end_of_turn,
            )
        answers = [each.tokens for each in found]
        if world.size > 1:
            answers = _gather_answers(world, own, answers, total, self.max_new_tokens)
        return [decode_answer(tokens, self.tokenizer, self.end_of_turn) for tokens in answers]


def scoring_cell_of_ranks(loaded: LoadedModel, task: str, layout: Layout) -> Cell:
    """Build the cell that computes scores, its operators split over the ranks as the net's."""
    cell = scoring_cell(loaded.net, task)
    plan.apply(loaded.net, loaded.sites, layout, cell)
    return cell


def open_generator(
    loaded: LoadedModel,
    tokenizer: Tokenizer | None,
    batch_size: int,
    select: Callable[[Sequence[int]], None] | None = None,
) -> TextGenerator:
    """Build a generator for the net, with the end-of-sequence tokens of model and tokenizer. `select`: MultiAdapter.select."""
    return TextGenerator(
        loaded.net,
        eos_ids=end_ids(loaded, tokenizer),
        pad_id=loaded.pad_token_id,
        max_positions=loaded.max_positions,
        batch_size=batch_size,
        select=select,
        decode=None if tokenizer is None else tokenizer.decode,
    )


def generate_texts(
    generator: TextGenerator,
    prompts: ExampleSet,
    tokenizer: Tokenizer | None,
    max_new_tokens: int,
    label: str,
    *,
    end_of_turn: EndOfTurn,
) -> list[str]:
    """Answer every prompt greedily, without special tokens and the end of turn; returns token ids where the base has no tokenizer."""
    found = generate_answers(generator, prompts, max_new_tokens, label, end_of_turn=end_of_turn)
    return [decode_answer(item.tokens, tokenizer, end_of_turn) for item in found]


def generate_answers(
    generator: TextGenerator, prompts: ExampleSet, max_new_tokens: int, label: str, *, end_of_turn: EndOfTurn
) -> list[Generation]:
    """Answer every prompt greedily, with a progress bar, in the data's order."""
    return generator(
        [prompts[i].input_ids for i in range(len(prompts))],
        max_new_tokens,
        rows=prompts.per_row["row"].tolist(),
        ends_of_turn=[end_of_turn] * len(prompts),
        progress=progress(label),
    )


def _gather_answers(
    world: World, own: Array, answers: Sequence[tuple[int, ...]], total: int, max_new_tokens: int
) -> list[tuple[int, ...]]:
    """Return the answers of all ranks to `total` prompts. `own`: the numbers of the prompts that this rank answered with `answers`."""
    table = np.full((len(own), max_new_tokens), -1.0)
    for row, tokens in zip(table, answers, strict=True):
        row[: len(tokens)] = tokens
    gathered = world.gathered(own, table, total)
    return [tuple(int(token) for token in row if token >= 0) for row in gathered]


def decode_answer(tokens: Iterable[int], tokenizer: Tokenizer | None, end_of_turn: EndOfTurn = NO_END_OF_TURN) -> str:
    """Decode an answer's tokens to text, up to its end of turn; to their numbers where the base has no tokenizer."""
    values = [int(token) for token in tokens]
    return " ".join(map(str, values)) if tokenizer is None else end_of_turn.cut(tokenizer.decode(values))


def end_ids(loaded: LoadedModel, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """List the tokens that end a text, by the model and by the tokenizer."""
    own = () if tokenizer is None or tokenizer.eos_id is None else (int(tokenizer.eos_id),)
    return tuple(dict.fromkeys((*loaded.eos_token_ids, *own)))


@dataclass(frozen=True, kw_only=True)
class BaseAndDelta:
    """Figures of a base alone, and with a delta."""

    base: dict[str, float]
    delta: dict[str, float] | None
    """None where no delta is given."""
    signatures: dict[str, str]
    """How the figures of texts were computed."""


def score_base_and_delta(
    settings: InferenceSettings, rows: ExampleSet, prompts: ExampleSet | None, metrics: tuple[Metric, ...]
) -> BaseAndDelta:
    """Score the base, and the base with the delta where there is one, on the same rows."""
    loaded, fitted = settings.load(rows)
    seed = settings.config.train.seed
    assembled = None
    if fitted is not None and method_of(fitted.algo, fitted.config, fitted.path)[0].identity:
        # At its initial values the method changes nothing: the net scores the base with it attached, and is compiled once.
        assembled = attach_delta(loaded, fitted, seed)
    evaluator = Evaluator(
        loaded=loaded,
        task=rows.task,
        metrics=metrics,
        examples=rows,
        prompts=prompts,
        tokenizer=settings.tokenizer,
        batch_size=settings.batch_size,
        buckets=settings.config.data.buckets,
        seq_len=settings.config.data.seq_len,
        max_new_tokens=settings.config.eval.max_new_tokens,
        scorer=Scorer(loaded.net, loaded.inputs, rows.task, labels=rows.labels),
        end_of_turn=settings.end_of_turn(rows),
    )
    # A base without a head of its own is scored with the untrained head that training started from.
    base = evaluator.score("base")
    evaluator.use_as_base()
    if loaded.fresh:
        heads = ", ".join(sorted({name.split(".")[0] for name in loaded.fresh}))
        console.print(f"the base has no {heads} of its own: its figures are those of a new one")
    if fitted is None:
        return BaseAndDelta(base=base, delta=None, signatures=evaluator.signatures)
    assembled = assembled or attach_delta(loaded, fitted, seed)
    set_delta(assembled, fitted)
    evaluator.use_net(assembled.loaded)
    delta = evaluator.score("delta")
    return BaseAndDelta(base=base, delta=delta, signatures=evaluator.signatures)
