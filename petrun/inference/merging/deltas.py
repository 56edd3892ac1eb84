"""Merge one delta, or the weighted sum of several, into its base on files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun import console
from petrun.algebra.derived import derived, source_line
from petrun.algebra.sums import Term, added
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.merge import FolderSettings, Merged, merge_to_file, merge_to_folder
from petrun.errors import ConfigError, DeltaError
from petrun.inference.assembly import open_delta, require_matching_family
from petrun.inference.delta_opener import DeltaOpener, WeightedPath
from petrun.inference.delta_tokenizer import tokenizer_folder
from petrun.inference.merging.merged_prompts import holds_prompts, merged_prompts
from petrun.inference.stored_base import StoredBase
from petrun.models.quantised import is_quantised
from petrun.tensors.sharded.ranks import root_of


@dataclass(frozen=True)
class MergeInput:
    """A delta to merge, and notes for the user about how it was made."""

    delta: Delta
    notes: tuple[str, ...] = ()


def fit_deltas(asked: Sequence[WeightedPath], opener: DeltaOpener) -> MergeInput:
    """Return one delta unchanged, or the weighted sum of several, and compare it with the base. Raises DeltaError."""
    if len(asked) == 1 and asked[0].weight == 1.0:
        given = open_delta(asked[0].path, opener.sources.alpha, opener.sources.delta_strategy)
        opener.use_form_of([given])
        fitted = opener.base.fit(given, opener.sources.alpha)
        if fitted.manifest is not None and fitted.manifest.base.digest:
            opener.require_own_base(fitted)
        return MergeInput(fitted)
    sources = opener(*(each.path for each in asked))
    for source in sources:
        require_matching_family(source, opener.base.raw)
        opener.require_own_base(source)
    terms = [Term(source, each.weight) for source, each in zip(sources, asked, strict=True)]
    made = added(terms, base=opener.base.arrays())
    manifest, notes = derived(sources, made, ("sum", *(source_line(term.delta, term.weight) for term in terms)))
    named = Path(" + ".join(f"{each.path}:{each.weight:g}" for each in asked))
    return MergeInput(Delta(named, made.tensors, manifest, "petrun", made.algo, made.config), (*made.notes, *notes))


@console.working("merging")
def write_merged(
    fitted: Delta, base: StoredBase, out: Path, dtype: str | None, max_shard_bytes: int
) -> tuple[Merged, tuple[str, ...]]:
    """Write the merged model. Returns what was written, and notes for the user.

    Raises DeltaError where the algorithm has no merged form, and as the merge does.
    """
    method, config = method_of(fitted.algo, fitted.config, fitted.path)
    if method.merge is None:
        raise DeltaError(
            f"{fitted.path}: a {method.name} delta cannot be merged into the base's weights",
            hint="Use it beside its base: petrun eval and petrun predict take both.",
        )
    update = method.merge(config, fitted.tensors)
    if dtype is None and (base.quantisation is not None or is_quantised(base.raw)):
        # Values of codes need more digits than a base of 16 bits has.
        dtype = "float32"
    if out.suffix in (".ckpt", ".safetensors"):
        merged = merge_to_file(base.to_merge(), fitted, update, out, dtype=dtype)
        left = (
            "a file holds weights alone: the delta's template and end of turn are left out (--out FOLDER writes them)"
        )
        return merged, (left,) if holds_prompts(fitted) else ()
    if base.kind is None:
        raise ConfigError(
            f"--out {out}: a model of your own has no Hugging Face layout",
            hint="Give a file: --out merged.ckpt or merged.safetensors.",
        )
    root = root_of(base.path)
    folder = tokenizer_folder(fitted, root if root.is_dir() else root.parent)
    info = fitted.manifest.task if fitted.manifest is not None else None
    prompts = merged_prompts(fitted, folder, base.raw)
    settings = FolderSettings(
        config=base.raw,
        architecture=base.architecture,
        companions=folder,
        labels=info.labels if info else (),
        max_shard_bytes=max_shard_bytes,
        complete=prompts.write if prompts is not None else None,
    )
    merged = merge_to_folder(base.to_merge(), fitted, update, out, settings, dtype=dtype)
    return merged, tuple(prompts.notes) if prompts is not None else ()
