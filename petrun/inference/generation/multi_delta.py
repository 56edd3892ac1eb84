"""Load a base and named deltas into one net that generates text with any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun.checkpoint.delta import Delta
from petrun.config.commands.text import SessionSettings
from petrun.config.effect import BASE_KEYS, require_read
from petrun.config.load import load_run_config
from petrun.config.resolved import Resolved
from petrun.data.chat.end_of_turn import EndOfTurn, find_end_of_turn
from petrun.data.rows.kinds import template_column
from petrun.data.tasks import CLASS_TASKS
from petrun.data.templates.find_template import BUILTIN, find_template, preset
from petrun.data.templates.template import Template, variables
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.delta import find_method
from petrun.errors import ConfigError, ModelError
from petrun.graph.sites import Sites
from petrun.inference.assembly import (
    attach_delta,
    fit_delta,
    open_base,
    open_delta,
    require_matching_family,
    set_delta,
    with_form_of,
)
from petrun.inference.base_info import read_base_info
from petrun.inference.blends import Blend
from petrun.inference.delta_tokenizer import tokenizer_for
from petrun.inference.evaluator import end_ids
from petrun.inference.multi_adapter import OFF, MultiAdapter, fixed_adapter, has_switched_tokens, open_multi_adapter
from petrun.inference.settings import learned_end_of_turn
from petrun.models.base import LoadedModel
from petrun.models.factory import is_factory
from petrun.models.families import spell_families
from petrun.parallel.compile_cache import use_compile_cache
from petrun.parallel.context import setup


@dataclass(frozen=True, kw_only=True)
class MultiDeltaModel:
    """A net that generates text with any of several deltas, and how each delta's prompts and answers are written."""

    loaded: LoadedModel
    multi_adapter: MultiAdapter
    tokenizer: Tokenizer
    templates: Mapping[str, Template]
    """Name of a delta, "off" for the base -> the template of its prompts."""
    sources: Mapping[str, str]
    """Name of a delta that learned rows without messages -> the column that its template reads a prompt from."""
    eos_ids: tuple[int, ...]
    """Tokens that end any answer."""
    ends_of_turn: Mapping[str, EndOfTurn]
    """Name of a delta, "off" for the base -> tokens and texts that end its answers beside `eos_ids`."""


def named_paths(deltas: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Name every path that has no name: after its file without the suffix, or its folder. Raises ConfigError."""
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
    """Split NAME=PATH, or name a path after its file or folder. Returns (name, path)."""
    name, equals, path = text.partition("=")
    if equals and not Path(text).expanduser().exists() and "/" not in name:
        return name, path
    given = Path(text).expanduser()
    return (given.stem if given.suffix in (".ckpt", ".safetensors") else given.resolve().name), text


def load_deltas(settings: SessionSettings) -> MultiDeltaModel:
    """Load a base and its deltas. Raises as Session.open says."""
    resolved = _resolve(settings)
    config = resolved.config
    deltas = {name: open_delta(path, settings.alpha) for name, path in named_paths(settings.deltas).items()}
    model = with_form_of(config.model, deltas.values())
    device = setup(config.device, config.model.dtype)
    use_compile_cache(config)
    info = read_base_info(config)
    if "instruct" not in info.tasks:
        made_for = info.hf_config.get("architectures")
        own = f" ({made_for[0]})" if isinstance(made_for, list) and made_for else ""
        raise ModelError(
            f"a {info.hf_config.get('model_type')} base{own} generates no text",
            hint=f"Give a {spell_families('instruct')} family base, with the head that continues texts.",
        )
    for delta in deltas.values():
        require_matching_family(delta, info.hf_config)
        _require_text(delta)
    tokenizer = tokenizer_for(info.folder, deltas.values())
    if tokenizer is None:
        raise ModelError(f"{info.folder}: holds no tokenizer", hint="Put tokenizer.json beside config.json.")
    templates = _templates(resolved, deltas, tokenizer)
    loaded = open_base(model, device, task="instruct", num_labels=None, seed=0)
    fitted = {name: fit_delta(delta, loaded, settings.alpha) for name, delta in deltas.items()}
    ends_of_turn = {name: find_end_of_turn(template, tokenizer) for name, template in templates.items()}
    for name, delta in deltas.items():
        ends_of_turn[name] |= learned_end_of_turn(delta.manifest, tokenizer)
    eos_ids = end_ids(loaded, tokenizer)
    loaded, multi_adapter = attach_deltas(loaded, fitted, settings.batch_size)
    return MultiDeltaModel(
        loaded=loaded,
        multi_adapter=multi_adapter,
        tokenizer=tokenizer,
        templates=templates,
        sources=_sources(resolved, deltas),
        eos_ids=eos_ids,
        ends_of_turn=ends_of_turn,
    )


def _resolve(settings: SessionSettings) -> Resolved:
    flags = {
        "model.base": ("--base", settings.base),
        "model.family": ("--model", settings.model),
        "model.quant": ("--base-bits", settings.quant),
        "data.template": ("--template", settings.template),
        "device": ("--device", settings.device),
        "compile_cache": ("--no-compile-cache", False if settings.no_compile_cache else None),
    }
    resolved = load_run_config(
        None, {key: pair for key, pair in flags.items() if pair[1] is not None}, settings.settings
    )
    require_read(resolved, (*BASE_KEYS, "data.template", "data.chat_template_kwargs"))
    family = resolved.config.model.family
    if is_factory(family):
        raise ConfigError(
            f"--model {family}: text is generated with {spell_families('instruct', 'and')} models, not with one of your own",
            hint="petrun predict runs your own.",
        )
    return resolved


def attach_deltas(
    loaded: LoadedModel, fitted: Mapping[str, Delta], rows: int, blends: Mapping[str, Blend] | None = None
) -> tuple[LoadedModel, MultiAdapter]:
    """Attach the deltas. `rows`: of the largest batch; `blends`: weighted sums of them, by name. Raises as open_multi_adapter."""
    alone = _alone(fitted, loaded.sites)
    if alone is None:
        return open_multi_adapter(loaded, fitted, rows, blends)
    if blends:
        raise ConfigError(
            f"{next(iter(blends))}: {alone} cannot be weighed, its algorithm changes the net's layers themselves",
            hint="Use it alone.",
        )
    assembled = attach_delta(loaded, fitted[alone])
    set_delta(assembled, fitted[alone])
    return assembled.loaded, fixed_adapter(alone, rows)


def _alone(fitted: Mapping[str, Delta], sites: Sites) -> str | None:
    """Name the only delta where it cannot be switched off, by its algorithm, because it changes an embedding, or because the family does
    not switch virtual tokens; else None."""
    if len(fitted) != 1:
        return None
    ((name, delta),) = fitted.items()
    tables = any(tensor.rpartition(".")[0] in sites.tables for tensor in delta.tensors)
    method = find_method(delta.algo)
    unswitched = method.table and not has_switched_tokens(sites)
    return name if tables or unswitched or method.switch is None else None


def _require_text(delta: Delta) -> None:
    """Raises ConfigError for a delta that was trained to classify."""
    task = delta.manifest.task if delta.manifest is not None else None
    if task is not None and task.name in CLASS_TASKS:
        raise ConfigError(
            f"{delta.path}: was trained to classify {'rows' if task.name == 'classify' else task.name}, and generates no text",
            hint="petrun predict labels rows.",
        )


def _sources(resolved: Resolved, deltas: Mapping[str, Delta]) -> dict[str, str]:
    """Map the name of a delta to the column that its own template reads a prompt from."""
    kinds = {
        name: d.manifest.task.rows
        for name, d in deltas.items()
        if d.manifest is not None and d.manifest.task is not None
    }
    return (
        {}
        if resolved.config.data.template
        else {name: template_column(kind) for name, kind in kinds.items() if template_column(kind)}
    )


def _templates(resolved: Resolved, deltas: Mapping[str, Delta], tokenizer: Tokenizer) -> dict[str, Template]:
    """Choose the template of each delta: the user's, else its own, else the tokenizer's chat template, else the text unchanged."""
    name_or_path = resolved.config.data.template
    if name_or_path is None and tokenizer.chat_template is None:
        name_or_path = "plain"
    default = find_template(name_or_path, chat_template=tokenizer.chat_template, row_kind="instruction")
    assert default is not None
    found = {OFF: default}
    for name, delta in deltas.items():
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
    """Set these values in the templates that read all of them. Raises ConfigError where no template does."""
    readers = [name for name, template in templates.items() if set(values) <= variables(template.text)]
    chosen = readers or list(templates)[-1:]
    return templates | {name: preset(templates[name], values) for name in chosen}
