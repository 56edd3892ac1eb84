"""Score a net: metrics that need one forward pass, and those that need generated text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from petrun.console import progress
from petrun.data.batches.buckets import Batching, plan_batches
from petrun.data.chat.end_of_turn import NO_ENDING, Ending
from petrun.data.examples.example_set import ExampleSet
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.evaluate.figures import Scores
from petrun.evaluate.generate import TextGenerator
from petrun.evaluate.metrics import Answer, Metric, signatures, text_metrics
from petrun.evaluate.score import Scorer, scoring_cell
from petrun.inference.rows import mappings
from petrun.models.base import LoadedModel
from petrun.parallel import plan
from petrun.parallel.layout import Layout


@dataclass(kw_only=True)
class Evaluator:
    """Everything that scoring needs, settled once; `score` may be called again and again on a changing net."""

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
    ending: Ending = NO_ENDING
    """What ends an answer beside the tokens that model and tokenizer know."""
    writer: TextGenerator | None = field(default=None, init=False)
    """Made when the first text is generated, and kept with its compiled graphs."""
    texts: list[str] | None = field(default=None, init=False)
    """The last answers to the prompts, where a metric needed them."""
    signatures: dict[str, str] = field(default_factory=dict, init=False)
    """How the metrics of those answers were computed: which tokeniser, how many references."""

    def score(self, label: str, generated: bool = True) -> dict[str, float]:
        """Metrics by name; `generated` False leaves out those that cost a generation."""
        scores = self.forward(label)
        found = {m.name: scores.metrics[m.name] for m in self.metrics if m.name in scores.metrics}
        if not found:
            found = {"loss": scores.metrics["loss"]}
        if generated and self.prompts is not None:
            self.texts = self.answers(label)
            answers = [
                Answer(
                    prompt=tuple(self.prompts[i].input_ids.tolist()),
                    text=text,
                    reference=self.prompts[i].reference or "",
                    other_references=self.prompts[i].other_references,
                )
                for i, text in enumerate(self.texts)
            ]
            found.update(text_metrics(answers, self.metrics))
            self.signatures = signatures(answers, self.metrics)
        return found

    def renew(self, loaded: LoadedModel) -> None:
        """The same net with a delta attached: virtual tokens leave fewer positions for answers."""
        if loaded.max_positions != self.loaded.max_positions:
            self.writer = None
        self.loaded = loaded

    @property
    def batching(self) -> Batching:
        """The batches of a pass."""
        return plan_batches(
            self.examples.lengths,
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            buckets=self.buckets,
            order="length",
            arrays=self.examples.is_arrays,
        )

    def forward(self, label: str) -> Scores:
        """One pass over the examples."""
        rows = mappings(self.examples, self.batching.epoch(0), self.loaded.inputs, self.loaded.pad_token_id)
        return self.scorer(rows, progress(f"score {label}"), len(self.examples))

    def answers(self, label: str) -> list[str]:
        """Greedy continuations of the prompts, as text, in the data's order."""
        assert self.prompts is not None
        if self.writer is None:
            self.writer = open_writer(self.loaded, self.tokenizer, self.batch_size)
        return texts(
            self.writer, self.prompts, self.tokenizer, self.max_new_tokens, f"generate {label}", ending=self.ending
        )


def scoring_cell_of_ranks(loaded: LoadedModel, task: str, layout: Layout) -> Any:
    """What is called to score, its operators split as the net's."""
    cell = scoring_cell(loaded.net, task)
    plan.apply(loaded.net, loaded.sites, layout, cell)
    return cell


def open_writer(
    loaded: LoadedModel,
    tokenizer: Tokenizer | None,
    batch_size: int,
    select: Callable[[Sequence[int]], None] | None = None,
) -> TextGenerator:
    """A generator for the net, with the ends that model and tokenizer know. `select`: MultiAdapter.select."""
    return TextGenerator(
        loaded.net,
        eos_ids=end_ids(loaded, tokenizer),
        pad_id=loaded.pad_token_id,
        max_positions=loaded.max_positions,
        batch_size=batch_size,
        select=select,
        decode=None if tokenizer is None else tokenizer.decode,
    )


def texts(
    writer: TextGenerator,
    prompts: ExampleSet,
    tokenizer: Tokenizer | None,
    max_new_tokens: int,
    label: str,
    *,
    ending: Ending,
) -> list[str]:
    """Greedy continuation of every prompt, without special tokens and what ends it; token ids where the base has no tokenizer."""
    found = writer(
        [prompts[i].input_ids for i in range(len(prompts))],
        max_new_tokens,
        rows=prompts.per_row["row"].tolist(),
        endings=[ending] * len(prompts),
        progress=progress(label),
    )
    return [spelt(item.tokens, tokenizer, ending) for item in found]


def spelt(tokens: Iterable[int], tokenizer: Tokenizer | None, ending: Ending = NO_ENDING) -> str:
    """An answer's tokens as text, up to what ends it; as numbers where the base has no tokenizer."""
    values = [int(token) for token in tokens]
    return " ".join(map(str, values)) if tokenizer is None else ending.cut(tokenizer.decode(values))


def end_ids(loaded: LoadedModel, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """Tokens that end a text: the model's and the tokenizer's."""
    own = () if tokenizer is None or tokenizer.eos_id is None else (int(tokenizer.eos_id),)
    return tuple(dict.fromkeys((*loaded.eos_token_ids, *own)))
