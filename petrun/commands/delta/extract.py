"""`petrun delta extract`: make a LoRA of the difference between a tuned model and its base."""

from __future__ import annotations

from petrun import console
from petrun.algebra.derived import versions
from petrun.algebra.extraction import extracted
from petrun.algebra.low_rank import Keep
from petrun.algebra.sums import NewDelta
from petrun.checkpoint.base_arrays import BaseArrays
from petrun.checkpoint.delta import save_delta
from petrun.checkpoint.manifest import BaseIdentity, Manifest, TaskInfo
from petrun.commands.delta.files import check_out, report
from petrun.config.commands.delta import ExtractSettings
from petrun.config.schema import ModelConfig
from petrun.console import progress
from petrun.errors import ConfigError, DeltaError
from petrun.graph.surgery import select_paths
from petrun.inference.stored_base import StoredBase, stored_base
from petrun.models.families import FAMILIES
from petrun.models.folder import label_names


def run(settings: ExtractSettings) -> None:
    """Write the LoRA. Raises ConfigError, ModelError; DeltaError where the two models do not differ, or have different shapes."""
    path = check_out(settings.out)
    family, tuned = settings.family, settings.tuned
    if tuned is None:
        raise ConfigError("--tuned is missing: the tuned model", hint="Example: --tuned ./merged")
    if settings.rank is None and settings.energy is None:
        raise ConfigError("--rank or --energy is missing: how much of every change to keep", hint="Example: --rank 16")
    keep = Keep(settings.rank, settings.energy)
    second = stored_base(ModelConfig(base=tuned, family=family))
    # A head of the tuned model that the base lacks is new.
    task = second.kind.tasks[0] if second.kind else None
    first = stored_base(ModelConfig(base=settings.base, family=family), task)
    if first.family != second.family:
        raise DeltaError(f"{first.path} is a {first.family} model, {second.path} a {second.family} one")
    if first.kind is None or first.sites is None:
        raise ConfigError(
            f"--model {family}: which of its tensors are linear layers only a built-in family says",
            hint=f"Built-in families: {', '.join(FAMILIES)}.",
        )
    arrays, changed = first.arrays(), second.arrays()
    dense = tuple(name.removesuffix(".weight") for name in arrays.found if _is_matrix(name, arrays))
    paths = select_paths(dense, first.sites, settings.target or ("all-linear",))
    made = extracted(
        arrays, changed, second.names, paths, keep, keep_rest=settings.rest, progress=progress("extract", "tensor")
    )
    written = save_delta(path, made.tensors, _manifest(first, second, arrays, made, _spelt(keep, second)))
    report(made)
    for note in made.notes:
        console.print(f"note: {note}")
    console.tell(f"wrote {path}: {made.algo}, {len(written.owned)} tensors, digest {written.digest[:16]}")


def _is_matrix(name: str, arrays: BaseArrays) -> bool:
    return name.endswith(".weight") and len(arrays.shape(name)) == 2


def _spelt(keep: Keep, tuned: StoredBase) -> tuple[str, ...]:
    limits = [f"rank {keep.rank}"] if keep.rank else []
    limits += [f"energy {keep.energy:g}"] if keep.energy else []
    return ("extract, " + ", ".join(limits), f"tuned model {tuned.path.name}")


def _manifest(
    base: StoredBase, tuned: StoredBase, arrays: BaseArrays, made: NewDelta, how: tuple[str, ...]
) -> Manifest:
    lacking = tuple(name for name in made.tensors if name in base.names and name not in arrays)
    head = f"{base.sites.head}.weight" if base.kind and base.sites and "classify" in base.kind.tasks else ""
    heads = [made.tensors[head].shape[0]] if head in made.tensors else []
    task = None
    if heads:
        task = TaskInfo(
            name="classify", num_labels=heads[0], labels=label_names(tuned.raw, heads[0]) if heads[0] > 1 else ()
        )
    identity: BaseIdentity = base.identity(arrays, base.content())
    return Manifest(
        algo=made.algo,
        config=made.config,
        family=base.family,
        model_type=base.raw.get("model_type", base.family),
        hf_config=base.raw,
        base=identity.model_copy(update={"fresh": lacking}),
        task=task,
        versions=versions(),
        made=how,
    )
