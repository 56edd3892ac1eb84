"""Write a delta as an adapter folder that peft loads."""

from __future__ import annotations

from pathlib import Path

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.hf_config import copy_tokenizer
from petrun.checkpoint.tied import is_shared
from petrun.config.options import DeltaSources
from petrun.config.schema import ModelConfig
from petrun.errors import ConfigError
from petrun.inference.assembly import base_path, open_delta, require_matching_family
from petrun.inference.delta_tokenizer import tokenizer_folder
from petrun.inference.stored_base import stored_base
from petrun.inference.virtual_tables import with_tables
from petrun.interop.convert import to_net_names, trained_task, write_peft
from petrun.models.factory import is_factory, read_family


def run(
    *,
    base: str | None,
    delta: str,
    out: str,
    family: str | None = None,
    alpha: float | None = None,
    task: str | None = None,
) -> Path:
    """Write `delta` as a peft adapter folder `out`, which must not exist or be empty. Returns the folder.

    `base`: the model it was trained on; None: the embedded one. Only its config.json is read, but for adapters that keep or change a part
    of its weights. `alpha`: of a MindPet checkpoint. `task`: classify, tokens, lm or instruct, where the delta does not name it.
    Of encoders of virtual tokens the folder holds their results: enough to use them, not to continue their training.
    Raises DeltaError where peft has no form for the delta, ConfigError for a user's own model, OutputError.
    """
    refuse_factory(family)
    sources = DeltaSources(base=base, family=family, alpha=alpha)
    return write(open_delta(delta, alpha), out, sources, task)


def refuse_factory(family: str | None) -> None:
    """Raises ConfigError for a user's own model."""
    if is_factory(family):
        raise ConfigError(
            f"--model {family}: peft knows Hugging Face models, not one of your own",
            hint="Keep the delta in petrun's own format.",
        )


def write(given: Delta, out: str, sources: DeltaSources, task: str | None) -> Path:
    """Write a delta that was read or computed as an adapter folder, as `run` does."""
    base, family = sources.base, sources.family
    refuse_factory(family)
    path = base_path(ModelConfig(base=base, family=family))
    assert path is not None
    task = task or trained_task(given)
    raw, kind, parsed = read_family(path, family, task=task)
    require_matching_family(given, raw)
    names, sites = kind.names(parsed), kind.sites(parsed)
    fitted = to_net_names(
        given,
        names,
        kind.prefixes,
        sources.alpha,
        sites,
        lambda name: stored_base(ModelConfig(base=base, family=family), task).arrays()[name],
    )
    folder = Path(out).expanduser()
    write_peft(
        with_tables(fitted, kind, parsed),
        names,
        folder,
        task=task,
        base=base,
        sites=sites,
    )
    if path.is_dir() and any(is_shared(name) for name in fitted.tensors):
        # The rows of tokens mean nothing without the tokenizer that has them.
        copy_tokenizer(folder, tokenizer_folder(given, path))
    return folder
