"""What the tables of virtual tokens are called in the net: the names that graph.virtual and the methods' cells give them."""

from __future__ import annotations

from petrun.errors import DeltaError
from petrun.graph.sites import Sites

PREFIX_TABLE = "encoder.mindpet_delta_ptuning2.source.table"
"""Below the path of an attention core."""
PROMPT_TABLE = "encoder.mindpet_delta_prompt.table"
"""Below the path of the token embedding."""


def prefix_tables(place: str, sites: Sites | None) -> tuple[str, ...]:
    """Names of the ptuning2 tables (P, 2 * N_kv * D), layer by layer. Raises DeltaError where the base does not say where its cores are."""
    if sites is None or sites.cores.count("*") != 1 or not (sites.layers and sites.kv_heads and sites.head_dim):
        raise DeltaError(
            f"{place}: holds keys and values for every layer, and the base does not say where these go",
            hint="A factory of your own says it: return (net, Sites(cores='layers.*.attn.core', layers=, kv_heads=, head_dim=, ...)).",
        )
    return tuple(f"{sites.cores.replace('*', str(layer))}.{PREFIX_TABLE}" for layer in range(sites.layers))


def prompt_table(place: str, sites: Sites | None) -> str:
    """Name of the prompt's table (P, H). Raises DeltaError where the base does not say where its embedding is."""
    if sites is None or not (sites.embedding and sites.hidden):
        raise DeltaError(
            f"{place}: holds vectors to stand before the embedded row, and the base does not say where its embedding is",
            hint="A factory of your own says it: return (net, Sites(embedding='embed', hidden=, ...)).",
        )
    return f"{sites.embedding}.{PROMPT_TABLE}"
