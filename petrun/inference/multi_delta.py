"""A base and named deltas -> one net that generates with any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrun.checkpoint.delta import Delta
from petrun.config.load import Resolved, load_run_config
from petrun.data.chat.end_of_turn import Ending, find_ending
from petrun.data.encode.instruct import SOURCES
from petrun.data.templates.template import BUILTIN, Template, find_template, preset, variables
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.delta.compose import split_names
from petrun.errors import ConfigError, ModelError
from petrun.graph.sites import Sites
from petrun.inference.assembly import attach_delta, fit_delta, open_base, open_delta, require_matching_family, set_delta
from petrun.inference.base_info import read_base_info
from petrun.inference.evaluator import end_ids
from petrun.inference.multi_adapter import KINDS, OFF, MultiAdapter, fixed_adapter, open_multi_adapter
from petrun.inference.rows import open_tokenizer
from petrun.inference.settings import learned_ending, note_tokenizer
from petrun.models.base import LoadedModel
from petrun.models.factory import is_factory
from petrun.parallel.context import setup


@dataclass(frozen=True)
class Opened:
    """What a session is made of."""

    loaded: LoadedModel
    multi_adapter: MultiAdapter
    tokenizer: Tokenizer
    templates: dict[str, Template]
    """Of each delta, and of the base under "off"."""
    sources: dict[str, str]
    """Of deltas that learned rows without messages: which column a prompt is."""
    ends: tuple[int, ...]
    """Tokens that end an answer."""
    endings: dict[str, Ending]
    """What else ends one: of each delta, and of the base under "off"."""


def named_paths(deltas: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Paths, or NAME=PATH -> name -> path; a name is that of the file without its ending, or of the folder. Raises ConfigError."""
    pairs = list(deltas.items()) if isinstance(deltas, Mapping) else [named_path(text) for text in deltas]
    found: dict[str, str] = {}
    for name, path in pairs:
        if name == OFF or not name or any(c.isspace() for c in name):
            raise ConfigError(
                f"--delta {path}: {name!r} cannot be the name of a delta", hint="Name it yourself: --delta NAME=PATH."
            )
        if name in found:
            raise ConfigError(
                f"--delta {found[name]} and --delta {path} would both be called {name}",
                hint="Name one yourself: --delta NAME=PATH.",
            )
        found[name] = path
    return found


def named_path(text: str) -> tuple[str, str]:
    """A path, or NAME=PATH -> (name, path)."""
    name, equals, path = text.partition("=")
    if equals and not Path(text).expanduser().exists() and "/" not in name:
        return name, path
    given = Path(text).expanduser()
    return (given.stem if given.suffix in (".ckpt", ".safetensors") else given.resolve().name), text


def open_deltas(
    base: str | None,
    deltas: Mapping[str, str] | Sequence[str],
    *,
    model: str | None,
    template: str | None,
    alpha: float | None,
    device: str | None,
    rows: int,
    settings: Sequence[str],
) -> Opened:
    """Load everything. `rows`: of the largest batch. Raises as Session.open says."""
    flags: dict[str, tuple[str, Any]] = {
        "model.base": ("--base", base),
        "model.family": ("--model", model),
        "data.template": ("--template", template),
        "device": ("--device", device),
    }
    resolved = load_run_config(None, {key: pair for key, pair in flags.items() if pair[1] is not None}, settings)
    config = resolved.config
    if is_factory(config.model.family):
        raise ConfigError(
            f"--model {config.model.family}: text is generated with gpt2 and llama models, not with one of your own",
            hint="petrun predict runs your own.",
        )
    given = {name: open_delta(path, alpha) for name, path in named_paths(deltas).items()}
    chosen = setup(config.device, config.model.dtype)
    seen = read_base_info(config)
    if "instruct" not in seen.tasks:
        raise ModelError(
            f"a {seen.hf_config.get('model_type')} base generates no text", hint="Give a gpt2 or llama family base."
        )
    for delta in given.values():
        require_matching_family(delta, seen.hf_config)
        _hold_to_text(delta)
    tokenizer = open_tokenizer(seen.folder)
    if tokenizer is None:
        raise ModelError(f"{seen.folder}: holds no tokenizer", hint="Put tokenizer.json beside config.json.")
    templates = _templates(resolved, given, tokenizer)
    loaded = open_base(config.model, chosen, task="instruct", num_labels=None, seed=0)
    fitted = {name: fit_delta(delta, loaded, alpha) for name, delta in given.items()}
    alone = _alone(fitted, loaded.sites)
    for delta in given.values():
        note_tokenizer(delta, tokenizer)
    ends = end_ids(loaded, tokenizer)
    sources = _sources(resolved, given)
    endings = {name: find_ending(template, tokenizer) for name, template in templates.items()}
    for name, delta in given.items():
        endings[name] |= learned_ending(delta.manifest, tokenizer)
    if alone is not None:
        assembled = attach_delta(loaded, fitted[alone])
        set_delta(assembled, fitted[alone])
        return Opened(assembled.loaded, fixed_adapter(alone, rows), tokenizer, templates, sources, ends, endings)
    loaded, multi_adapter = open_multi_adapter(loaded, fitted, rows)
    return Opened(loaded, multi_adapter, tokenizer, templates, sources, ends, endings)


def _alone(fitted: Mapping[str, Delta], sites: Sites) -> str | None:
    """The name of a single delta of a kind that cannot be switched, or that changes an embedding: it is attached for good."""
    if len(fitted) != 1:
        return None
    ((name, delta),) = fitted.items()
    tables = any(tensor.rpartition(".")[0] in sites.tables for tensor in delta.tensors)
    return name if tables or set(split_names(delta.algo)) - {*KINDS, "r_drop"} else None


def _hold_to_text(delta: Delta) -> None:
    task = delta.manifest.task if delta.manifest is not None else None
    if task is not None and task.name == "classify":
        raise ConfigError(
            f"{delta.path}: was trained to classify rows, and generates no text", hint="petrun predict labels rows."
        )


def _sources(resolved: Resolved, given: Mapping[str, Delta]) -> dict[str, str]:
    """Name of a delta -> the column that its own template reads the user's words from."""
    kinds = {
        name: d.manifest.task.rows
        for name, d in given.items()
        if d.manifest is not None and d.manifest.task is not None
    }
    return (
        {}
        if resolved.config.data.template
        else {name: SOURCES[kind] for name, kind in kinds.items() if kind in SOURCES}
    )


def _templates(resolved: Resolved, given: Mapping[str, Delta], tokenizer: Tokenizer) -> dict[str, Template]:
    """The user's for all, else each delta's own; by default the tokenizer's chat template, or the text as it is."""
    wanted = resolved.config.data.template
    if wanted is None and tokenizer.chat_template is None:
        wanted = "plain"
    default = find_template(wanted, chat_template=tokenizer.chat_template, row_kind="instruction")
    assert default is not None
    found = {OFF: default}
    for name, delta in given.items():
        manifest = delta.manifest
        found[name] = default
        if resolved.config.data.template is not None or manifest is None:
            continue
        if manifest.template:
            found[name] = Template(name="delta", text=manifest.template)
        elif manifest.task is not None and manifest.task.name == "lm":
            found[name] = Template(name="plain", text=BUILTIN["plain"])
    return _preset(found, resolved.config.data.chat_template_kwargs)


def _preset(templates: dict[str, Template], values: Mapping[str, bool | float | str]) -> dict[str, Template]:
    """The templates with these values where they read them all. Raises ConfigError where none does."""
    reading = [name for name, template in templates.items() if set(values) <= variables(template.text)]
    chosen = reading or list(templates)[-1:]
    return templates | {name: preset(templates[name], values) for name in chosen}
