"""`petrun reshard`: write a checkpoint, sharded or not, as the files of another job's ranks or as one file. No net is built."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from petrun import console
from petrun.checkpoint.resharding.source import SUFFIXES, SourceCheckpoint, open_source, require_matching_config
from petrun.checkpoint.resharding.tensors import tensors_to_shard
from petrun.config.commands.merge import ReshardSettings
from petrun.errors import ConfigError, OutputError
from petrun.inference.assembly import strategy_path
from petrun.tensors import TensorEntry, atomic_folder, write_ckpt, write_safetensors
from petrun.tensors.atomic import refuse_occupied
from petrun.tensors.known_names import OPTIMIZER_STATE
from petrun.tensors.sharded.strategy import read_strategy, spell
from petrun.tensors.sharded.writer import FullTensor, full_tensors, write_sharded


def run(
    settings: ReshardSettings,
) -> None:
    """Read, shard or join, verify, and print what was written.

    Raises ConfigError, WeightsError, ModelError, DeltaError and OutputError.
    """
    single, to_strategy, out, fmt = settings.single, settings.to_strategy, settings.out, settings.file_format
    if single == (to_strategy is not None):
        what = "contradict each other" if single else "are both missing"
        raise ConfigError(
            f"--to-strategy and --single {what}",
            hint="Give the strategy file to shard by, or --single for one file.",
        )
    if fmt not in (None, "ckpt", "safetensors"):
        raise ConfigError(f"--format {fmt} is unknown", hint="Known: ckpt, safetensors.")
    began = time.perf_counter()
    path = Path(out).expanduser()
    refuse_occupied(path)
    found = open_source(Path(settings.source).expanduser(), strategy_path(settings.from_strategy))
    unchecked = require_matching_config(found)
    suffix = f".{fmt}" if fmt else path.suffix if path.suffix in SUFFIXES else found.suffix
    if to_strategy is None:
        count, written = _write_single(path, found, suffix), "one file"
    else:
        count, ranks = _write_ranks(path, found, suffix, Path(to_strategy).expanduser())
        written = f"the files of {ranks} ranks"
    console.tell(
        f"wrote {count} tensors into {written}, {path}, in {time.perf_counter() - began:.1f} s; read back and verified"
    )
    if unchecked:
        console.tell(f"shapes were not held against a config.json: {unchecked}")


@console.working("resharding")
def _write_ranks(out: Path, source: SourceCheckpoint, suffix: str, to_strategy: Path) -> tuple[int, int]:
    """Write one file for each rank. Returns the number of tensors and of ranks."""
    if out.suffix in SUFFIXES:
        raise ConfigError(f"--out {out}: the ranks' files need a folder", hint="Give a name without an ending.")
    strategy = read_strategy(to_strategy)
    tensors, left_out = tensors_to_shard(source, strategy)
    if left_out:
        console.tell(f"left out: {spell(left_out, 'tensors')}: optimizer state that no layout describes")
    write_sharded(
        out,
        tensors,
        strategy,
        file=f"{source.stem}{suffix}",
        metadata=source.metadata(),
        spare=OPTIMIZER_STATE,
        beside=source.write_companions,
    )
    return len(tensors), strategy.devices


@console.working("resharding")
def _write_single(out: Path, source: SourceCheckpoint, suffix: str) -> int:
    """Write one file, or a folder with it and its companions. Returns the number of tensors."""
    if out.suffix in SUFFIXES and out.suffix != suffix:
        raise ConfigError(f"--out {out} contradicts --format {suffix[1:]}", hint="Leave one of them out.")
    entries = _entries(full_tensors(source.reader))
    write = partial(write_ckpt, leading=True) if suffix == ".ckpt" else write_safetensors
    if out.suffix in SUFFIXES:
        if out.exists():
            raise OutputError(f"{out}: exists", hint="Choose another --out, or remove it first.")
        write(out, entries, source.metadata())
        return len(entries)
    with atomic_folder(out) as folder:
        write(folder / f"{source.stem}{suffix}", entries, source.metadata())
        source.write_companions(folder)
    return len(entries)


def _entries(tensors: Sequence[FullTensor]) -> list[TensorEntry]:
    return [TensorEntry(each.name, each.info.shape, each.info.dtype, each.raw) for each in tensors]
