"""Record a training run: its log, the best and the final delta, the scores before and after, and the results.

Every rank of a job scores a share of the rows with the same net, and gets the figures of all rows; only the first
writes and decides. Where the ranks hold shards, all of them take part in every forward pass, and each writes its own shards.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

import mindspore

from petrun import __version__, console
from petrun.checkpoint.delta import BaseIdentity, Manifest, TaskInfo, save_delta, save_delta_shards
from petrun.cluster.processes.memory import peak_bytes
from petrun.cluster.world import World
from petrun.config.schema import RunConfig
from petrun.console import StepBar
from petrun.data.chat.end_of_turn import end_of_turn_mark
from petrun.errors import OutputError
from petrun.evaluate.compare import side_by_side, signature_lines
from petrun.evaluate.metrics import is_better
from petrun.inference.assembly import base_path, values_of
from petrun.inference.delta_tokenizer import save_tokenizer
from petrun.parallel.context import peak_card_bytes
from petrun.parallel.layout import Layout
from petrun.tensors.sharded.rank_files import ShardSpec
from petrun.tensors.sharded.ranks import root_of
from petrun.train.loop import Plan
from petrun.training import plan_text
from petrun.training.receipt.receipt import Receipt, ReceiptInputs, make_receipt
from petrun.training.receipt.receipt_text import receipt_text
from petrun.training.receipt.samples import EvalSnapshot, SampleEvaluator
from petrun.training.run_folder import RunFolder
from petrun.training.run_log import RunLog
from petrun.training.tracking.watchers import Callback, Watchers
from petrun.typing import JsonObject


class RunRecorder:
    """Records a run from the first score to the last file."""

    def __init__(
        self,
        out: RunFolder,
        config: RunConfig,
        inputs: ReceiptInputs,
        plan: Plan,
        world: World,
        shards: ShardSpec | None = None,
        layout: Layout | None = None,
        callback: Callback | None = None,
    ) -> None:
        """`inputs.progress`: of an earlier process, for a run that resumes. `shards` and `layout`: how the ranks hold shards.

        `callback`: gets each record of the log as well, as the tracker of --tracker does.
        """
        self.out = out
        self.world = world
        self.config = config
        self.inputs = inputs
        self.assembled = inputs.assembled
        self.sources = inputs.sources
        self.plan = plan
        self.shards = shards
        self.sample_evaluator = SampleEvaluator(config, inputs.assembled.loaded, inputs.sources, layout, world)
        self.evaluator = self.sample_evaluator.evaluator
        self.progress = inputs.progress
        self.log = RunLog(out.log, out.writes, size=self.progress.log_bytes)
        self.watchers = Watchers.of(config, out, self.progress.step, callback)
        self.bar: StepBar | None = None
        self.asked_to_stop = False
        """The callback of a program wants the run to end."""
        self.evaluated = False
        """The step that was recorded last was evaluated."""
        self.epoch_ended = False
        """The step that was recorded last reached the end of an epoch."""

    def start(self, base: EvalSnapshot | None) -> None:
        """Record the base's scores, or else those of the net before the first step; a run that resumes has them already."""
        if not self.progress.step:
            found = base if base is not None else self.sample_evaluator.evaluate("before")
            self.progress.first, self.progress.first_losses = found.scores, found.losses
            self.progress.first_texts = found.texts
            if self.progress.first:
                self._note({"step": 0, "epoch": 0.0, "evaluation": self.progress.first})
                console.tell("before: " + plan_text.figures(self.progress.first))
        self.bar = StepBar(self.plan.total_steps, self.progress.step)

    def on_step(self, record: JsonObject) -> bool:
        """Log a step, evaluate where it is due, and keep the best delta. Returns whether the run stops early."""
        progress = self.progress
        before = progress.position
        progress.advance(record, self.plan)
        self._note({**record, "memory": peak_card_bytes() or peak_bytes()})
        assert self.bar is not None
        self.bar.step(record)
        self.epoch_ended = self.plan.ends_epoch(before, progress.position)
        every = self.config.train.eval_every_steps
        due = self.epoch_ended if every is None else progress.step % every == 0
        last = progress.micro_batches >= self.plan.total_micro_batches
        self.evaluated = self.evaluator is not None and due and not last
        ended = False
        if self.evaluator is not None and self.evaluated:
            self.note_evaluation(self.evaluator.score(f"step {progress.step}", generated=False))
            # One rank decides for all: their nets may differ in the last bit.
            ended = self.world.of_first_rank(self._patience_is_used_up())
        if self.asked_to_stop and not ended:
            progress.stopped = f"the program's callback ended it at step {progress.step}"
            console.print("stopped early: " + progress.stopped)
        return ended or self.asked_to_stop

    def _note(self, record: JsonObject) -> None:
        """Write a record to the log, and hand it on. A program that gives a callback is one process, so no other rank waits for it."""
        self.log.write(record)
        self.asked_to_stop |= self.watchers.note(record)

    def note_evaluation(self, found: dict[str, float]) -> None:
        """Log an evaluation, and keep the delta if it is the best so far."""
        progress = self.progress
        step, epoch = progress.step, progress.epoch
        self._note({"step": step, "epoch": epoch, "evaluation": found})
        console.tell(f"step {step}: " + plan_text.figures(found))
        metric = self.sources.best
        value = found.get(metric.name, found.get("loss"))
        assert value is not None
        best = progress.best_value
        # Ranks that hold shards save together.
        if self.world.of_first_rank(best is None or is_better(metric, value, best)):
            progress.best_value, progress.best_step, progress.waited = value, step, 0
            self.save(self.out.best, found)
        else:
            progress.waited += 1

    def _patience_is_used_up(self) -> bool:
        """Return whether the run ends because so many evaluations in a row were no better; prints that it does."""
        progress, patience = self.progress, self.config.train.patience
        if patience is None or progress.waited < patience:
            return False
        progress.stopped = (
            f"no better {self.sources.best.name} in {patience} evaluations; the best was at step {progress.best_step}"
        )
        console.print("stopped early: " + progress.stopped)
        return True

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the bar and the log, and after an OutputError save the delta elsewhere."""
        self._end_bar()
        self.watchers.close()
        self.log.close()
        if isinstance(error, OutputError) and self.progress.step:
            raise self._rescue(error) from error

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def finish(self, seconds: float) -> None:
        """Score, save the final delta, write the results and print the receipt. Raises TrainingError where nothing was learned."""
        self._end_bar()
        after = self.sample_evaluator.evaluate("after")
        if self.evaluator is not None and not self.evaluated:
            self.note_evaluation(after.scores)
        self.save(self.out.delta, after.scores)
        receipt = make_receipt(self.inputs, self.sample_evaluator, after)
        if self.out.writes:
            self.out.write_results(self._results(receipt, seconds))
            self._print_end(receipt, seconds)
        receipt.require_learned()

    def _results(self, receipt: Receipt, seconds: float) -> JsonObject:
        progress, trainable, after = self.progress, self.inputs.trainable, receipt.after
        return {
            **after,
            "base": progress.first,
            "delta": after,
            "signatures": self.evaluator.signatures if self.evaluator is not None else {},
            "algo": self.config.algo,
            "task": self.sources.train.task,
            "steps": progress.step,
            "epochs": progress.epoch,
            "train_loss_first": progress.loss_first,
            "train_loss_last": progress.loss_last,
            "best": {"step": progress.best_step, self.sources.best.name: progress.best_value}
            if progress.best_value is not None
            else None,
            "stopped": progress.stopped or None,
            "trainable_parameters": trainable.trained_values,
            "all_parameters": trainable.all_values,
            "delta_bytes": self.out.delta_bytes,
            "rows": {"train": vars(self.sources.train.stats), "eval": vars(self.sources.evaluation.stats)}
            if self.sources.evaluation is not None
            else {"train": vars(self.sources.train.stats)},
            "seconds": seconds,
            "petrun_version": __version__,
            "receipt": receipt.content,
        }

    def _print_end(self, receipt: Receipt, seconds: float) -> None:
        console.tell("")
        if receipt.after:
            console.tell(side_by_side(self.progress.first, receipt.after))
            if self.evaluator is not None and self.evaluator.signatures:
                console.tell(signature_lines(self.evaluator.signatures))
            console.tell("")
        console.tell(receipt_text(receipt, self.config.algo))
        console.tell("")
        console.print(plan_text.saved(self.out, seconds))
        console.tell(plan_text.next_commands(self.out, self.config, self.sources))

    def _rescue(self, error: OutputError) -> OutputError:
        """Save the delta into a temporary folder, and return the error with its path; the error itself where that fails."""
        if self.out.delta.exists() or self.shards is not None:
            return error
        try:
            place = Path(tempfile.mkdtemp(prefix="petrun-")) / self.out.delta.name
            self.save(place, {})
        except (OutputError, OSError):
            return error
        return OutputError(
            error.message, hint=f"{error.hint}\nWhat was trained up to step {self.progress.step} is saved: {place}"
        )

    def save(self, path: Path, metrics: dict[str, float]) -> None:
        """Save the delta as it is now. Raises OutputError."""
        net, owned = self.assembled.loaded.net, self.assembled.owned
        if self.shards is not None:
            held = values_of(net, (name for name in owned if name in self.shards.layouts))
            save_delta_shards(path, self.out.format, held, owned, self._manifest(metrics), self.shards)
        elif self.out.writes:
            save_delta(path, values_of(net, owned), self._manifest(metrics))
        if self.out.writes:
            save_tokenizer(path, owned, self.sources.tokenizer, self.assembled.loaded.hf_config)

    def _manifest(self, metrics: dict[str, float]) -> Manifest:
        config, loaded, rows = self.config, self.assembled.loaded, self.sources.train
        base = base_path(config.model)
        return Manifest(
            algo=self.assembled.method.name,
            config=self.assembled.config.model_dump(mode="json"),
            family=loaded.family,
            model_type=loaded.model_type,
            hf_config=loaded.hf_config,
            base=BaseIdentity(
                digest=loaded.base_digest,
                quantisation=loaded.quantisation,
                original=loaded.original_digest,
                name=root_of(base).name if base else "",
                fresh=loaded.fresh,
            ),
            task=TaskInfo(
                name=rows.task,
                rows=rows.kind,
                labels=rows.labels,
                num_labels=rows.num_labels,
                seq_len=config.data.seq_len,
                loss_on=config.data.loss_on,
                columns=config.data.columns,
                separator=config.data.separator,
            ),
            template=self.sources.template.text if self.sources.template else None,
            end_of_turn=end_of_turn_mark(self.sources.template, self.sources.tokenizer),
            tokenizer_digest=self.sources.tokenizer.digest if self.sources.tokenizer else None,
            seed=config.train.seed,
            step=self.progress.step,
            epoch=self.progress.epoch,
            metrics=dict(metrics),
            versions={
                "petrun": __version__,
                "mindspore": str(mindspore.__version__),
                "python": platform.python_version(),
                "platform": sys.platform,
            },
        )
