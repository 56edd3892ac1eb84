"""What is known of a run's net before weights are read: its sizes, and the net with its delta without values."""

from __future__ import annotations

from petrun import kernels
from petrun.checkpoint.delta_method import method_of
from petrun.config.schema import RunConfig
from petrun.data.tasks import IMAGE
from petrun.graph.freeze import match_parameters
from petrun.inference.assembly import Assembled, attach, base_path, config_file, form_to_make, head_names
from petrun.models.base import FamilyConfig
from petrun.models.factory import ModelSource, is_factory, outline_model, read_family
from petrun.parallel.validate import Sizes


def sizes_of(config: RunConfig) -> Sizes | None:
    """Return the sizes of the base that must divide, from config.json; None for a user's own net."""
    if is_factory(config.model.family):
        return None
    parsed = _parsed(config)
    return Sizes(
        heads=parsed.heads,
        kv_heads=parsed.kv_heads,
        wide=parsed.wide,
        layers=parsed.layers,
        encoder_decoder=parsed.decoder_start is not None,
    )


def longest_row(config: RunConfig) -> int:
    """Return the length of the longest row that the run may have."""
    if is_factory(config.model.family):
        return 0
    longest = _parsed(config).positions
    return config.data.seq_len if longest is None else min(config.data.seq_len, longest)


def outline_run(config: RunConfig, classes: int | None = None) -> Assembled:
    """Build the net with its delta, without values, and mark what trains. `classes`: of a classifier, where the data says it."""
    assembled = _outlined(config, classes)
    net, method = assembled.loaded.net, assembled.method
    owned = {name for name in assembled.owned if name.rpartition(".")[2] not in method.fixed}
    for parameter in net.get_parameters():
        # freeze_all_but would give trained parameters another type, and with it memory.
        parameter.requires_grad = parameter.name in owned
    return assembled


def _outlined(config: RunConfig, classes: int | None = None) -> Assembled:
    """Build the net with its delta, without values, as on Ascend: without the CPU's own operators."""
    model = config.model
    with kernels.primitives_only():
        loaded = outline_model(
            ModelSource(
                base=base_path(model),
                family=model.family,
                config=config_file(model),
                quantisation=form_to_make(model),
            ),
            task=config.data.task,
            num_labels=classes,
            compute_dtype=model.dtype or "bfloat16",
            seed=config.train.seed,
        )
        also = match_parameters(loaded.net, config.train.train_also, "--train-also")
        method, settings = method_of(config.algo, config.delta.model_dump(), "the configuration")
        return attach(loaded, method, settings, config.train.seed, head_names(loaded, also))


def _parsed(config: RunConfig) -> FamilyConfig:
    task = IMAGE if config.data.task == IMAGE else None
    return read_family(base_path(config.model), config.model.family, config_file(config.model), task)[2]
