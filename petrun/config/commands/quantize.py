"""`petrun quantize`: a base in 8 or 4 bits as a folder."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from petrun.config.options import MODEL, RUN, like, option


@dataclass(frozen=True, kw_only=True)
class QuantizeSettings:
    """The base that is quantised, into which form, and where the folder goes."""

    base: str | None = like("model.base")
    out: str = option("--out", "Folder to write (Hugging Face layout). Must not exist.", RUN, default=MISSING)
    quant: str = option(
        "--base-bits",
        "8 (int8 with a scale for every output) or 4 (nf4, double quantisation). Default 4.",
        MODEL,
        default="nf4",
        choices=lambda: ("8", "4"),
    )
    family: str | None = like("model.family")
    max_shard_size: str = option("--max-shard-size", "Largest file, such as 5GB. Default 5GB.", RUN, default="5GB")
