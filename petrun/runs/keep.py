"""What a training run keeps: its log, the best and the final delta, the scores before and after, and the results.

Every rank of a job follows the run and scores, on the same net, with the same result; only the first writes, and decides. Where the ranks
hold slices all of them take part in every forward pass, and each writes its own slices.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import mindspore

from petrun import __version__
from petrun.checkpoint.delta import BaseIdentity, Manifest, TaskInfo, save_delta, save_delta_pieces
from petrun.config.schema import RunConfig
from petrun.errors import ConfigError, OutputError, TrainingError
from petrun.evaluate.compare import side_by_side
from petrun.evaluate.score import Scorer, scoring_cell
from petrun.graph.freeze import Trainable
from petrun.models.base import LoadedModel
from petrun.parallel import plan
from petrun.parallel.layout import Layout
from petrun.parallel.world import World
from petrun.runs import describe
from petrun.runs.assemble import Assembled, base_path, values_of
from petrun.runs.folder import RunFolder
from petrun.runs.progress import Progress
from petrun.runs.scoring import Judge
from petrun.runs.sources import Sources
from petrun.tensors.pieces import Cut
from petrun.tensors.ranks import root_of
from petrun.train.loop import Plan
from petrun.train.report import RunLog, StepBar, say


class Keeper:
    """Follows a run from the first score to the last file."""

    def __init__(
        self,
        out: RunFolder,
        config: RunConfig,
        assembled: Assembled,
        sources: Sources,
        plan: Plan,
        world: World,
        progress: Progress | None = None,
        cut: Cut | None = None,
        layout: Layout | None = None,
    ) -> None:
        """`progress`: of an earlier process, for a run that goes on. `cut`: where the ranks hold slices, how, and their `layout`."""
        self.out = out
        self.world = world
        self.config = config
        self.assembled = assembled
        self.sources = sources
        self.plan = plan
        self.cut = cut
        self.judge = _judge(config, assembled.loaded, sources, layout)
        self.progress = progress or Progress()
        self.log = RunLog(out.log, out.writes, size=self.progress.log_bytes)
        self.bar: StepBar | None = None
        self.evaluated = False
        """The step that was noted last was evaluated."""

    def before(self, base: dict[str, float] | None) -> None:
        """Note what the base scored, or else score the net as it stands before the first step; a run that goes on knows already."""
        if self.judge is not None and not self.progress.step:
            self.progress.first = base if base is not None else self.judge.score("before")
            if self.progress.first:
                self.log.write({"step": 0, "epoch": 0.0, "evaluation": self.progress.first})
                say("before: " + describe.figures(self.progress.first))
        self.bar = StepBar(self.plan.total_steps, self.progress.step)

    def on_step(self, record: dict[str, Any]) -> bool:
        """Log a step; evaluate, keep the best and decide about stopping early. True: stop."""
        progress = self.progress
        progress.advance(record, self.plan)
        self.log.write(record)
        assert self.bar is not None
        self.bar.step(record)
        every = self.config.train.eval_every_steps or self.plan.steps_per_epoch
        last = progress.micro_batches >= self.plan.total_micro_batches
        self.evaluated = self.judge is not None and progress.step % every == 0 and not last
        if self.judge is None or not self.evaluated:
            return False
        found = self.judge.score(f"step {progress.step}", generated=False)
        # The ranks' nets may differ in the last bit some day: they must not part over it.
        return self.world.decide(self._weigh(found))

    def _weigh(self, found: dict[str, float]) -> bool:
        """Note an evaluation, keep the delta if it is the best so far. True: patience is used up."""
        progress = self.progress
        step, epoch = progress.step, progress.epoch
        self.log.write({"step": step, "epoch": epoch, "evaluation": found})
        say(f"step {step}: " + describe.figures(found))
        metric = self.sources.best
        value = found.get(metric.name, found.get("loss"))
        assert value is not None
        best = progress.best_value
        better = best is None or (value > best if metric.higher_is_better else value < best)
        # Where ranks hold slices they save together.
        if self.world.decide(better):
            progress.best_value, progress.best_step, progress.waited = value, step, 0
            self.save(self.out.best, found)
            return False
        progress.waited += 1
        patience = self.config.train.patience
        if patience is not None and progress.waited >= patience:
            progress.stopped = (
                f"no better {metric.name} in {patience} evaluations; the best was at step {progress.best_step}"
            )
            say("stopped early: " + progress.stopped)
            return True
        return False

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Whatever happened, end the bar and the log; what was trained is not lost where a disk is full."""
        self._end_bar()
        self.log.close()
        if isinstance(error, OutputError) and self.progress.step:
            raise self._rescue(error) from error

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def finish(self, trainable: Trainable, seconds: float) -> None:
        """Score, save the final delta, and write the results."""
        self._end_bar()
        self._check_changed()
        progress = self.progress
        after: dict[str, float] = {}
        if self.judge is not None:
            after = self.judge.score("after")
            self._weigh(after)
        self.save(self.out.delta, after)
        if not self.out.writes:
            return
        results = {
            **after,
            "base": progress.first,
            "delta": after,
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
        }
        self.out.write_results(results)
        say("")
        if after:
            say(side_by_side(progress.first, after))
        say(describe.ending(self.out, self.config, self.sources, seconds))

    def _rescue(self, error: OutputError) -> OutputError:
        """Where the run folder takes no more files, put what was trained elsewhere; the error, with the way there."""
        if self.out.delta.exists() or self.cut is not None:
            return error
        try:
            place = Path(tempfile.mkdtemp(prefix="petrun-")) / self.out.delta.name
            self.save(place, {})
        except (OutputError, OSError):
            return error
        return OutputError(
            error.message, hint=f"{error.hint}\nWhat was trained up to step {self.progress.step} is saved: {place}"
        )

    def _check_changed(self) -> None:
        if not self.progress.learned:
            raise TrainingError(
                "the loss was 0 at every step: nothing was learned", hint="Look at the labels with --dry-run."
            )

    def save(self, path: Path, metrics: dict[str, float]) -> None:
        net, owned = self.assembled.loaded.net, self.assembled.owned
        if self.cut is not None:
            pieces = values_of(net, (name for name in owned if name in self.cut.layouts))
            save_delta_pieces(path, self.out.format, pieces, owned, self._manifest(metrics), self.cut)
        elif self.out.writes:
            save_delta(path, values_of(net, owned), self._manifest(metrics))

    def _manifest(self, metrics: dict[str, float]) -> Manifest:
        config, loaded, rows = self.config, self.assembled.loaded, self.sources.train
        base = base_path(config.model)
        return Manifest(
            algo=self.assembled.method.name,
            config=self.assembled.config.model_dump(mode="json"),
            family=loaded.family,
            model_type=loaded.model_type,
            hf_config=loaded.hf_config,
            base=BaseIdentity(digest=loaded.base_digest, name=root_of(base).name if base else "", fresh=loaded.fresh),
            task=TaskInfo(
                name=rows.task,
                labels=rows.labels,
                num_labels=rows.num_labels,
                seq_len=config.data.seq_len,
                loss_on=config.data.loss_on,
                columns=config.data.columns,
                separator=config.data.separator,
            ),
            template=self.sources.template.text if self.sources.template else None,
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


def score_base(config: RunConfig, loaded: LoadedModel, sources: Sources) -> dict[str, float] | None:
    """What the base scores by itself: to be called before a delta is attached."""
    judge = _judge(config, loaded, sources)
    return None if judge is None else judge.score("base")


def _judge(config: RunConfig, loaded: LoadedModel, sources: Sources, layout: Layout | None = None) -> Judge | None:
    """`layout`: of ranks that hold slices. A batch holds as many rows for each data-parallel one as on one rank, and always so many:
    their graph cuts it.
    """
    if sources.evaluation is None:
        return None
    task, rows = sources.train.task, config.eval.batch_size or config.train.batch_size
    cell, full = None, 0
    if layout is not None:
        rows *= layout.dp
        cell, full = _laid_out(loaded, task, layout), rows
    return Judge(
        loaded=loaded,
        task=task,
        metrics=sources.metrics,
        examples=sources.evaluation,
        prompts=sources.prompts,
        tokenizer=sources.tokenizer,
        batch_size=rows,
        buckets=config.data.buckets,
        seq_len=config.data.seq_len,
        max_new_tokens=config.eval.max_new_tokens,
        scorer=Scorer(loaded.net, loaded.inputs, task, cell=cell, rows=full),
    )


def require_forward_only(layout: Layout, sources: Sources) -> None:
    """Raises ConfigError for an evaluation that needs more than a forward pass which every rank can take part in."""
    if layout.pp > 1 and sources.evaluation is not None:
        raise ConfigError(
            f"--parallel {layout}: rows are not scored over pipeline stages, of which only the last has figures",
            hint="Leave --eval-data and --eval-split out, and score what was saved: petrun eval --delta RUN.",
        )
    if sources.prompts is not None:
        raise ConfigError(
            f"--parallel {layout}: text is not generated by a model that is cut over ranks",
            hint="Give --metrics that need none, and score what was saved: petrun eval --delta RUN.",
        )


def _laid_out(loaded: LoadedModel, task: str, layout: Layout) -> Any:
    """What is called to score, its operators split as the net's."""
    cell = scoring_cell(loaded.net, task)
    plan.apply(loaded.net, loaded.sites, layout, cell)
    return cell
