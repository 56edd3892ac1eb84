"""`petrun quantize`: write a base in 8 or 4 bits. No net is built, and one matrix in full precision is in memory at a time."""

from __future__ import annotations

import time
from pathlib import Path

from petrun import console
from petrun.config.commands.quantize import QuantizeSettings
from petrun.config.schema import ModelConfig
from petrun.config.sizes import size_in_bytes
from petrun.errors import ConfigError
from petrun.inference.quantising import QuantisedFolder, write_quantised
from petrun.inference.stored_base import stored_base
from petrun.models.factory import is_factory
from petrun.models.quantised import is_quantised


def run(settings: QuantizeSettings) -> None:
    """Quantise, write, and report the error of the weights. Raises ConfigError, ModelError, WeightsError and OutputError."""
    form = form_of("--base-bits", settings.quant)
    if is_factory(settings.family):
        raise ConfigError(
            f"--model {settings.family}: a model of your own has no Hugging Face layout",
            hint="Built-in families alone are quantised.",
        )
    shard = size_in_bytes("--max-shard-size", settings.max_shard_size)
    began = time.perf_counter()
    base = stored_base(ModelConfig.model_validate({"base": settings.base, "family": settings.family, "quant": form}))
    if is_quantised(base.raw):
        raise ConfigError(
            f"--base {base.path}: is quantised already", hint="Give the full-precision model, or use it as it is."
        )
    report(write_quantised(base, Path(settings.out).expanduser(), shard), time.perf_counter() - began)


def form_of(flag: str, bits: str) -> str:
    """Return the form that 8 or 4 names: int8 or nf4. Raises ConfigError for another word."""
    form = {"8": "int8", "4": "nf4"}.get(bits, bits)
    if form not in ("int8", "nf4"):
        raise ConfigError(f"{flag} {bits}: is no form to quantise into", hint="Give 8 (int8) or 4 (nf4).")
    return form


def report(written: QuantisedFolder, seconds: float) -> None:
    """Print what was written and how far the weights are from those that were given."""
    console.tell(
        f"quantised {written.layers} of {written.tensors} tensors to {written.form} in {written.path}: "
        f"{written.bytes_before / 1e6:,.1f} MB -> {written.bytes_after / 1e6:,.1f} MB in {seconds:.1f} s; read back and verified"
    )
    console.tell(
        f"error of the weights, ||W - Q|| / ||W||: {written.error:.4f} in all, {written.worst[1]:.4f} at most ({written.worst[0]})"
    )
