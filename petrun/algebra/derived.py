"""Make the manifest of a delta made from others: it keeps what they share, but not their scores."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

from petrun import __version__
from petrun.algebra.sums import NewDelta
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.manifest import BaseIdentity, Manifest
from petrun.errors import DeltaError
from petrun.typing import JsonObject


def derived(sources: Sequence[Delta], made: NewDelta, how: Sequence[str]) -> tuple[Manifest, tuple[str, ...]]:
    """Return (manifest of `made`, sentences that say what differs between the sources). `how`: the operation, and a line for each source.

    Step, epoch, seed and metrics of the sources are not carried over. Raises DeltaError for sources of different bases.
    """
    manifests = [_manifest(source) for source in sources]
    refuse_other_bases(sources)
    first = manifests[0]
    fresh = tuple(name for name in dict.fromkeys(n for m in manifests for n in m.base.fresh) if name in made.tensors)
    notes = []
    for field, spoken in (
        ("task", "task and labels"),
        ("template", "prompt template"),
        ("tokenizer_digest", "tokenizer"),
    ):
        if any(getattr(m, field) != getattr(first, field) for m in manifests[1:]):
            notes.append(f"the deltas differ in {spoken}: those of {sources[0].path} are kept")
    manifest = Manifest(
        algo=made.algo,
        config=made.config,
        family=first.family,
        model_type=first.model_type,
        hf_config=first.hf_config,
        base=BaseIdentity(digest=first.base.digest, name=first.base.name, fresh=fresh),
        task=first.task,
        template=first.template,
        end_of_turn=first.end_of_turn,
        tokenizer_digest=first.tokenizer_digest,
        versions=versions(),
        made=tuple(how),
    )
    return manifest, tuple(notes)


def source_line(delta: Delta, weight: float = 1.0) -> str:
    """Return the line of a source in the manifest of the new delta."""
    return f"{delta.path.name} ({delta.algo}) x {weight:g}, digest {delta.digest}"


def versions() -> dict[str, str]:
    return {"petrun": __version__, "python": platform.python_version(), "platform": sys.platform}


def refuse_other_bases(sources: Sequence[Delta]) -> None:
    """Raises DeltaError where deltas were trained on bases of different content."""
    first = _manifest(sources[0])
    for source in sources[1:]:
        other = _manifest(source)
        if (other.base.digest, other.family) != (first.base.digest, first.family):
            raise DeltaError(
                f"{sources[0].path} and {source.path} belong to different bases ({_base(first)}; {_base(other)})",
                hint="Only deltas of one base have something in common to add or compare.",
            )


def _base(manifest: Manifest) -> str:
    return f"{manifest.family} {manifest.base.name or 'unnamed'}, digest {manifest.base.digest[:12] or 'not known'}"


def _manifest(delta: Delta) -> Manifest:
    assert delta.manifest is not None, f"{delta.path} was not given a manifest"
    return delta.manifest


def adopted(delta: Delta, identity: BaseIdentity, family: str, model_type: str, hf_config: JsonObject) -> Manifest:
    """Return a manifest for another tool's delta that has petrun's names and fits this base."""
    return Manifest(
        algo=delta.algo,
        config=dict(delta.config),
        family=family,
        model_type=model_type,
        hf_config=hf_config,
        base=identity,
        versions=versions(),
        made=(f"read from a {delta.origin} delta",),
    )
