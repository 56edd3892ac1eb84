"""Name the tables of virtual tokens in a net."""

from __future__ import annotations

from petrun.delta.parts import PREFIX_TABLE, PROMPT_TABLE
from petrun.errors import DeltaError
from petrun.graph.sites import Sites


def prefix_tables(path: str, sites: Sites | None) -> tuple[str, ...]:
    """Return the names of the ptuning2 tables (P, 2 * N_kv * D), layer by layer. Raises DeltaError where the base does not name its
    cores.
    """
    if sites is None or sites.cores.count("*") != 1 or not (sites.layers and sites.kv_heads and sites.head_dim):
        raise DeltaError(
            f"{path}: holds keys and values for every layer, and the base does not say where these go",
            hint="A factory of your own says it: return (net, Sites(cores='layers.*.attn.core', layers=, kv_heads=, head_dim=, ...)).",
        )
    return tuple(f"{sites.cores.replace('*', str(layer))}.{PREFIX_TABLE}" for layer in range(sites.layers))


def prompt_table(path: str, sites: Sites | None) -> str:
    """Return the name of the prompt's table (P, H). Raises DeltaError where the base does not name its embedding."""
    if sites is None or not (sites.embedding and sites.hidden):
        raise DeltaError(
            f"{path}: holds vectors to stand before the embedded row, and the base does not say where its embedding is",
            hint="A factory of your own says it: return (net, Sites(embedding='embed', hidden=, ...)).",
        )
    return f"{sites.embedding}.{PROMPT_TABLE}"
