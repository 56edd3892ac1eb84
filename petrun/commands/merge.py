"""`petrun merge`: base and deltas on disk -> a model on disk. No net is built, and a part of one tensor is in memory at a time."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from petrun import console
from petrun.algebra.sums import Term, added
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.derived import derived
from petrun.checkpoint.merge import FLOATS, Merged, merge_to_file, merge_to_folder
from petrun.commands.delta.files import Opener, line, weighted
from petrun.errors import ConfigError, DeltaError, PetrunError, did_you_mean
from petrun.inference.assembly import open_delta, require_matching_base, require_matching_family
from petrun.inference.merging.merge_proof import MergeProof
from petrun.inference.merging.merged_prompts import holds_prompts, merged_prompts
from petrun.inference.stored_base import StoredBase
from petrun.models.factory import is_factory
from petrun.models.families import FAMILIES
from petrun.tensors.sharded.ranks import root_of

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def run(
    *,
    base: str | None,
    deltas: Sequence[str],
    out: str | None,
    family: str | None,
    alpha: float | None,
    dtype: str | None,
    max_shard_size: str | None,
    base_strategy: str | None = None,
    delta_strategy: str | None = None,
    prove: bool = False,
    tolerance: float | None = None,
    probe: str | None = None,
) -> None:
    """Merge, prove it where asked to, and say what was written. A merge that is not proven leaves nothing behind."""
    if not deltas:
        raise ConfigError("--delta is missing: the delta to merge", hint="Example: --delta runs/lora-1")
    if out is None:
        raise ConfigError("--out is missing: where to write the merged model", hint="Example: --out ./merged")
    if dtype is not None and dtype not in FLOATS:
        raise ConfigError(f"--dtype {dtype} is unknown. {did_you_mean(dtype, FLOATS)}")
    if prove and is_factory(family):
        raise ConfigError(
            f"--prove: what {family} takes as input is not known", hint=f"Built-in families: {', '.join(FAMILIES)}."
        )
    if not prove and (tolerance is not None or probe is not None):
        raise ConfigError("--tolerance and --probe are for --prove", hint="Leave them out, or add --prove.")
    shard = _bytes(max_shard_size or "5GB")
    began = time.perf_counter()
    place = Path(out).expanduser()
    opener = Opener(base, family, alpha, base_strategy, delta_strategy)
    fitted = fit(deltas, opener)
    merged = write(fitted, opener.base, place, dtype, shard)
    console.print(
        f"merged {len(merged.changed)} of {merged.tensors} tensors into {merged.path} "
        f"({merged.nbytes / 1e6:,.1f} MB) in {time.perf_counter() - began:.1f} s; read back and verified, "
        f"digest {merged.digest[:16]}"
    )
    if merged.untied:
        console.print(
            "note: head and embedding differ in this delta: each has a matrix of its own (tie_word_embeddings: false)"
        )
    if prove:
        try:
            MergeProof(opener.base, tolerance, probe).check(fitted, place)
        except PetrunError:
            discard(place)
            console.print(f"removed {place}")
            raise


def fit(deltas: Sequence[str], opener: Opener) -> Delta:
    """One delta as it is, or the weighted sum of several, held against the base. Raises DeltaError."""
    asked = [weighted(text) for text in deltas]
    if len(asked) == 1 and asked[0].weight == 1.0:
        given = open_delta(asked[0].path, opener.alpha, opener.delta_strategy)
        fitted = opener.base.fit(given, opener.alpha)
        if fitted.manifest is not None and fitted.manifest.base.digest:
            require_matching_base(fitted, opener.digest())
        return fitted
    sources = opener(*(each.path for each in asked))
    for source in sources:
        require_matching_family(source, opener.base.raw)
        require_matching_base(source, opener.digest())
    terms = [Term(source, each.weight) for source, each in zip(sources, asked, strict=True)]
    made = added(terms, base=opener.base.arrays())
    for note in made.notes:
        console.print(f"note: {note}")
    manifest, notes = derived(sources, made, ("sum", *(line(term.delta, term.weight) for term in terms)))
    for note in notes:
        console.print(f"note: {note}")
    named = Path(" + ".join(f"{each.path}:{each.weight:g}" for each in asked))
    return Delta(named, made.tensors, manifest, "petrun", made.algo, made.config)


def write(fitted: Delta, base: StoredBase, out: Path, dtype: str | None, shard: int) -> Merged:
    """The merged model, at `out`. Raises DeltaError where the algorithm has no merged form, and as the merge does."""
    method, config = method_of(fitted.algo, fitted.config, fitted.path)
    if method.merge is None:
        raise DeltaError(
            f"{fitted.path}: a {method.name} delta cannot be folded into the base's weights",
            hint="Use it beside its base: petrun eval and petrun predict take both.",
        )
    update = method.merge(config, fitted.tensors)
    reader = base.reader()
    if out.suffix in (".ckpt", ".safetensors"):
        merged = merge_to_file(
            reader,
            fitted,
            update,
            out,
            names=base.names,
            prefixes=base.prefixes,
            ignored=base.ignored,
            dtype=dtype,
        )
        if holds_prompts(fitted):
            console.print(
                "note: a file holds weights alone: the delta's template and end of turn are left out (--out FOLDER writes them)"
            )
        return merged
    if base.kind is None:
        raise ConfigError(
            f"--out {out}: a model of your own has no Hugging Face layout",
            hint="Give a file: --out merged.ckpt or merged.safetensors.",
        )
    root = root_of(base.path)
    folder = root if root.is_dir() else root.parent
    info = fitted.manifest.task if fitted.manifest is not None else None
    prompts = merged_prompts(fitted, folder, base.raw)
    merged = merge_to_folder(
        reader,
        fitted,
        update,
        out,
        names=base.names,
        config=base.raw,
        companions=folder,
        prefixes=base.prefixes,
        ignored=base.ignored,
        labels=info.labels if info else (),
        dtype=dtype,
        max_shard_bytes=shard,
        complete=prompts.write if prompts is not None else None,
    )
    for note in prompts.notes if prompts is not None else ():
        console.print(f"note: {note}")
    return merged


def discard(place: Path) -> None:
    """Take away what a merge wrote."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found.group(2).upper() not in _UNITS or float(found.group(1)) <= 0:
        raise ConfigError(f"--max-shard-size {text} is not a size", hint="Examples: 500MB, 5GB.")
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])
