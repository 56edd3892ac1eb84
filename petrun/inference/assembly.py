"""Load a base, fit a delta to it, attach the delta: the steps from files to a net that all commands share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.assets import base_folder
from petrun.checkpoint.delta import Delta, check_delta, read_delta
from petrun.checkpoint.delta_method import method_of
from petrun.config.schema import ModelConfig
from petrun.delta import Method, MethodConfig
from petrun.errors import ConfigError, DeltaError, ModelError, TargetError
from petrun.graph.surgery import untie
from petrun.interop.convert import foreign_tokens, to_net_names, trained_classes
from petrun.models.base import BaseContent, LoadedModel, shared_matrices, untied
from petrun.models.factory import ModelSource, is_factory, load_model, read_model_config
from petrun.models.families import FAMILIES
from petrun.models.folder import BASE_HINT
from petrun.models.quantised import is_quantised
from petrun.parallel.context import Device
from petrun.tensors import Array
from petrun.tensors.quantised.codecs import CODECS
from petrun.typing import Cell, JsonObject


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A net with a delta attached, and the names of the parameters that the delta owns."""

    loaded: LoadedModel
    method: Method
    config: MethodConfig
    attached: tuple[str, ...]
    """Parameters that the method itself owns."""
    heads: tuple[str, ...]
    """Task heads and parameters named by the user: trained and saved beside the delta."""
    layers: tuple[str, ...] = ()
    """Layers that the settings' targets match; () for a method without targets."""
    layers_per_target: dict[str, int] = field(default_factory=dict)
    """Target as the settings name it -> how many layers it matches; {} where the family's own targets are used."""

    @property
    def owned(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.attached, *self.heads)))


def base_path(model: ModelConfig) -> Path | None:
    """Return the path of the base: the user's, or the embedded one; None for a factory without a checkpoint. Raises PetrunError."""
    if model.base is None and model.base_strategy is not None:
        raise ConfigError(
            f"--base-strategy {model.base_strategy}: says how a base was sharded, and no base is given",
            hint="Give the folder with the ranks' files as --base.",
        )
    if model.base is not None:
        return Path(model.base).expanduser()
    if model.family is None:
        return base_folder()
    if not is_factory(model.family):
        raise ModelError(f"no base is given for a {model.family} model", hint=BASE_HINT)
    return None


def open_base(
    model: ModelConfig,
    device: Device,
    *,
    task: str | None,
    num_labels: int | None,
    seed: int,
    arrays: tuple[str, ...] = (),
) -> LoadedModel:
    """Build the net and load its base. Afterwards targets may be given by their Hugging Face names as well.

    `arrays`: names of the columns of array data, for a factory's net that does not name its inputs.
    """
    source = ModelSource(
        base=base_path(model),
        family=model.family,
        config=config_file(model),
        strategy=strategy_path(model.base_strategy),
        kwargs=model.kwargs,
        quantisation=form_to_make(model),
    )
    loaded = load_model(
        source,
        task=task,
        num_labels=num_labels,
        fresh_head=model.fresh_head,
        compute_dtype=device.compute_dtype,
        seed=seed,
    )
    stored = {name.rpartition(".")[0]: info.name.rpartition(".")[0] for name, info in loaded.names.items()}
    sites = replace(loaded.sites, hf_paths={**stored, **loaded.sites.hf_paths})
    return replace(loaded, sites=sites, inputs=loaded.inputs or arrays, any_bits=model.any_bits)


def form_to_make(model: ModelConfig) -> str | None:
    """Return the form in which the base is to be quantised; None: it stays as it is."""
    return None if model.quant == "none" else model.quant


def with_form_of(model: ModelConfig, deltas: Iterable[Delta | None]) -> ModelConfig:
    """Return the settings with the form of the base that deltas were trained on, where none is given and the base is in full precision."""
    if model.quant is not None or is_factory(model.family):
        return model
    manifests = [delta.manifest for delta in deltas if delta is not None and delta.manifest is not None]
    form = next((m.base.quantisation for m in manifests if m.base.quantisation in CODECS), None)
    if form is None or is_quantised(read_model_config(base_path(model), model.family, config_file(model))):
        return model
    return model.model_copy(update={"quant": form})


def config_file(model: ModelConfig) -> Path | None:
    return Path(model.config) if model.config else None


def strategy_path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text is not None else None


def delta_if_given(path: str | None, alpha: float | None, strategy: str | None) -> Delta | None:
    """Read a delta; None where none is given. Raises as `open_delta`, and ConfigError for a strategy without a delta."""
    if path is not None:
        return open_delta(path, alpha, strategy)
    if strategy is not None:
        raise ConfigError(
            f"--delta-strategy {strategy}: says how a delta was sharded, and no delta is given",
            hint="Give the folder with the ranks' files as the delta.",
        )
    return None


def open_delta(path: str, alpha: float | None, strategy: str | None = None) -> Delta:
    """Read a delta. One of another format keeps its own names until `fit_delta`. Raises DeltaError, ConfigError."""
    delta = read_delta(Path(path).expanduser(), strategy_path(strategy))
    require_alpha_used(alpha, [delta], path)
    return delta


def require_alpha_used(alpha: float | None, deltas: Iterable[Delta], path: str) -> None:
    """Raises ConfigError where --alpha is given and none of the deltas is a MindPet checkpoint. `path`: of the first, as typed."""
    if alpha is not None and all(delta.origin != "mindpet" for delta in deltas):
        raise ConfigError(
            f"--alpha is for MindPet checkpoints: {path} states its own", hint="Leave --alpha out; it is in the delta."
        )


def classes_of(delta: Delta | None) -> int | None:
    """Return the number of classes of the delta's own head; None where it has none."""
    return None if delta is None else trained_classes(delta)


def one_number(delta: Delta | None) -> int | None:
    """Return 1 for a delta whose manifest says that it predicts a number, else None. For nets of the user's own, whose head is unknown."""
    info = delta.manifest.task if delta is not None and delta.manifest is not None else None
    return 1 if info is not None and info.num_labels == 1 else None


def virtual_tokens(delta: Delta | None) -> int:
    """Count the positions that the delta's virtual tokens take. Works before `fit_delta`."""
    if delta is None:
        return 0
    if delta.algo:
        method, config = method_of(delta.algo, delta.config, delta.path)
        return method.tokens(config)
    return foreign_tokens(delta)


def fit_delta(delta: Delta, loaded: LoadedModel, alpha: float | None) -> Delta:
    """Rename a delta's tensors as the net's. Raises DeltaError where its manifest names another base."""
    family = FAMILIES.get(loaded.family)
    fitted = to_net_names(
        delta, loaded.names, family.prefixes if family else ("",), alpha, loaded.sites, partial(value_of, loaded.net)
    )
    require_matching_base(fitted, loaded.content, loaded.any_bits)
    return fitted


def value_of(net: Cell, name: str) -> Array:
    """Read a parameter's value as float32."""
    parameter = next(p for p in net.get_parameters() if p.name == name)
    # numpy has no bfloat16.
    values: Array = parameter.value().astype(ms.float32).asnumpy()
    return values


def require_matching_family(delta: Delta | None, hf_config: JsonObject) -> None:
    """Raises DeltaError for a base of another architecture; config.json is enough to know."""
    manifest = None if delta is None else delta.manifest
    if delta is None or manifest is None or not hf_config or not manifest.hf_config:
        return
    if manifest.model_type != hf_config.get("model_type"):
        was = f" ({manifest.base.name})" if manifest.base.name else ""
        raise DeltaError(
            f"{delta.path}: was trained on a {manifest.model_type} base{was}; this one is {hf_config.get('model_type')}",
            hint="Give the base it was trained on as --base.",
        )


def require_matching_base(delta: Delta, base: BaseContent, any_bits: bool = False) -> None:
    """Raises DeltaError for a base of other content than the delta was trained on, or, but for `any_bits`, of the same in other bits.

    Deltas of other formats do not name their base.
    """
    manifest = delta.manifest
    if manifest is None or not manifest.base.digest or manifest.base.digest == base.digest:
        return
    known = manifest.base
    own = BaseContent(digest=known.digest, quantisation=known.quantisation, original=known.original)
    was = known.name or "another base"
    if own.full and own.full == base.full:
        if any_bits:
            return
        raise DeltaError(
            f"{delta.path}: was trained on {was} in {own.quantisation or 'full precision'}; here it is in "
            f"{base.quantisation or 'full precision'}",
            hint=f"Give --base-bits {own.quantisation or 'none'}; --set model.any_bits=true uses it all the same.",
        )
    raise DeltaError(
        f"{delta.path}: was trained on a base with other content ({was}, digest {own.digest[:12]}; "
        f"this one {base.digest[:12]})",
        hint="Give the base it was trained on as --base.",
    )


def head_names(loaded: LoadedModel, also: Iterable[str] = ()) -> tuple[str, ...]:
    """List the parameters trained beside any delta: the task's heads, those that the base lacked, and those of the user (`also`)."""
    names = [p.name for p in loaded.net.get_parameters()]
    heads = [n for n in names if any(fnmatchcase(n, pattern) for pattern in loaded.sites.trained_heads)]
    return tuple(dict.fromkeys((*heads, *loaded.fresh, *also)))


def attach(loaded: LoadedModel, method: Method, config: MethodConfig, seed: int, heads: tuple[str, ...]) -> Assembled:
    """Attach a method to the net. `seed`: of its initial values; `heads`: parameters that are trained beside it."""
    # Targets are matched before the method adds its own layers.
    targets = getattr(config, "target", None) or ()
    layers = method.layers(loaded.net, config, loaded.sites) if hasattr(config, "target") else ()
    layers_per_target = {target: len(_matched(loaded, method, config, target)) for target in targets}
    attached = method.attach(loaded.net, config, loaded.sites, seed)
    if loaded.max_positions is not None:
        loaded = replace(loaded, max_positions=loaded.max_positions - method.tokens(config))
    return Assembled(
        loaded=loaded,
        method=method,
        config=config,
        attached=attached,
        heads=tuple(h for h in heads if h not in attached),
        layers=layers,
        layers_per_target=layers_per_target,
    )


def _matched(loaded: LoadedModel, method: Method, config: MethodConfig, target: str) -> tuple[str, ...]:
    return method.layers(loaded.net, config.model_copy(update={"target": (target,), "exclude": ()}), loaded.sites)


def attach_delta(loaded: LoadedModel, delta: Delta, seed: int = 0) -> Assembled:
    """Attach a delta's method with the delta's settings. `set_delta` sets the values. Raises DeltaError for a delta that does not fit."""
    method, config = method_of(delta.algo, delta.config, delta.path)
    for name in shared_matrices(loaded.names):
        if name in delta.shapes:
            untie(loaded.net, name)
            loaded = replace(loaded, names=untied(loaded.names))
    base = {p.name for p in loaded.net.get_parameters()}
    # A delta with a manifest must hold every head that it trained; others have the heads in their file.
    heads = head_names(loaded) if delta.manifest is not None else loaded.fresh
    brought = tuple(name for name in delta.shapes if name in base)
    try:
        assembled = attach(loaded, method, config, seed, tuple(dict.fromkeys((*heads, *brought))))
    except TargetError as error:
        raise DeltaError(
            f"{delta.path}: does not fit this base: {error.message}",
            hint="Check that --base is the model the delta was trained on.",
        ) from error
    shapes = {p.name: tuple(p.shape) for p in loaded.net.get_parameters()}
    check_delta(delta, {name: shapes[name] for name in assembled.owned})
    return assembled


def set_delta(assembled: Assembled, delta: Delta) -> None:
    """Set the values of an attached delta."""
    parameters = {p.name: p for p in assembled.loaded.net.get_parameters()}
    for name in assembled.owned:
        parameter = parameters[name]
        parameter.set_data(Tensor(np.ascontiguousarray(delta.tensors[name]), parameter.dtype))


def values_of(net: Cell, names: Iterable[str]) -> dict[str, Array]:
    """Read parameters for saving. Returns name -> float32 array."""
    chosen = set(names)
    return {p.name: p.asnumpy() for p in net.get_parameters() if p.name in chosen}
