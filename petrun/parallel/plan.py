"""Apply a family's plan: shard every cell of its net over the ranks of a stage.

The plan is data (Sites.splits): path pattern -> role. Each cell sets the strategies of its operators for a role in
`set_layout(role, dp, tp)`, so a delta's cell takes the role of the layer it replaces:

    vocabulary   rows of the table over tp ranks             whole    full on each rank; data by rows of the batch
    column       outputs of a linear layer over tp ranks     tokens   (B, T, H) by rows of the batch
    row          inputs of a linear layer over tp ranks      heads    (B, N, T, D), heads over tp ranks
    wide         (B, T, F), features over tp ranks            stream   tokens; where tokens are split, B * T over dp * tp ranks

Where tokens are split (Korthikanti et al., arXiv:2205.05198) a row layer gets the role `scattered`: its sums are scattered over the ranks
of the stream, and MindSpore gathers the stream before a column layer by itself.
A vocabulary that tp does not divide (GPT-2's is 50257) is not sharded, nor is its head.
"""

from __future__ import annotations

from collections.abc import Iterator

from petrun.errors import ConfigError
from petrun.graph.sites import Sites, fits
from petrun.parallel import stages
from petrun.parallel.layout import Layout
from petrun.typing import Cell

ROLES = ("vocabulary", "column", "row", "wide", "whole", "tokens", "stream", "heads")
_SPLIT = {"row": "scattered"}
_WHOLE = {"stream": "tokens"}


def apply(net: Cell, sites: Sites, layout: Layout, loss: Cell | None = None) -> None:
    """Give every operator of the net, and of the loss where it has a `set_layout`, its strategy.

    Raises ConfigError where the model has no plan, a layer does not divide, or a cell of the delta cannot be sharded.
    """
    if layout.sequence:
        _check_sequence(net, sites, layout)
    if layout.pp > 1:
        stages.assign_stages(net, sites, layout)
    if not sites.splits:
        if layout.tp > 1:
            raise ConfigError(
                f"--parallel {layout}: this model does not say how its layers are sharded",
                hint="Use dp and zero alone, or let the factory return Sites(splits={...}).",
            )
        return
    planned = list(_planned(net, sites))
    whole = _uneven_vocabulary(planned, sites, layout.tp)
    _check(planned, sites, layout, whole)
    meant = _SPLIT if layout.sequence else _WHOLE
    for path, cell, role in planned:
        role = meant.get(role, role)
        if hasattr(cell, "set_layout"):
            cell.set_layout("whole" if path in whole else role, layout.dp, layout.tp)
    if loss is not None and hasattr(loss, "set_layout"):
        own = "whole" if sites.head in whole else role_of(sites.head, sites)
        loss.set_layout(own, layout.dp, layout.tp)


def recompute(net: Cell, sites: Sites, how: str) -> None:
    """Recompute activations in the backward pass. full: those of complete layers; select: those of the attention cores and the
    feed-forward activations, which are large and cheap to compute. Raises ConfigError where the model does not name its layers."""
    if how == "none":
        return
    if not sites.blocks:
        raise ConfigError(
            "--recompute: this model does not say which cells its layers are",
            hint="Leave it out, or let the factory return Sites(blocks='layers.*').",
        )
    for path, cell in net.cells_and_names():
        inside = role_of(path, sites) == "wide" or fits(sites.cores, path)
        if fits(sites.blocks, path) if how == "full" else inside:
            cell.recompute()


def role_of(path: str, sites: Sites) -> str | None:
    """Return the role that the plan gives to the cell at `path`; of several matching patterns the first."""
    return next((role for pattern, role in sites.splits.items() if fits(pattern, path)), None)


def _check_sequence(net: Cell, sites: Sites, layout: Layout) -> None:
    """Raises ConfigError where tokens cannot be split."""
    reason = ""
    if layout.pp > 1 or layout.zero:
        reason = "tokens are split with dp and tp alone"
    elif "stream" not in sites.splits.values():
        reason = "this model does not say where its tokens are split"
    elif getattr(net, "prefix_tokens", 0) or getattr(net, "prompt_tokens", 0):
        reason = "rows with virtual tokens are not split"
    else:
        kept = [
            (path, cell)
            for path, cell, role in _planned(net, sites)
            if role in ("stream", "row") and not getattr(cell, "splits_tokens", False)
        ]
        if kept:
            reason = f"{kept[0][0]}: {type(kept[0][1]).__name__} does not split tokens"
    if reason:
        raise ConfigError(
            f"--parallel {layout}: {reason}",
            hint="Leave sequence out; a llama splits tokens with LoRA and full fine-tuning.",
        )


def _planned(net: Cell, sites: Sites) -> Iterator[tuple[str, Cell, str]]:
    for path, cell in net.cells_and_names():
        role = role_of(path, sites)
        if role is not None:
            yield path, cell, role


def _uneven_vocabulary(planned: list[tuple[str, Cell, str]], sites: Sites, tp: int) -> set[str]:
    """Return the paths of the embedding and the head where tp does not divide the vocabulary: tied or not, they are sharded alike."""
    rows = [cell.weight.shape[0] for _, cell, role in planned if role == "vocabulary" and hasattr(cell, "weight")]
    if all(count % tp == 0 for count in rows):
        return set()
    return {path for path, _, role in planned if role == "vocabulary" or path == sites.head}


def _check(planned: list[tuple[str, Cell, str]], sites: Sites, layout: Layout, whole: set[str]) -> None:
    tp = layout.tp
    if tp == 1:
        return
    problems = [
        f"{count} {what}: not a multiple of tp={tp}"
        for what, count in (("attention heads", sites.heads), ("key/value heads", sites.kv_heads))
        if count % tp
    ]
    for path, cell, role in planned:
        if not hasattr(cell, "set_layout"):
            problems.append(f"{path}: a {type(cell).__name__} is not sharded over ranks")
        elif role in ("column", "row") and path not in whole:
            width, side = (cell.out_channels, "outputs") if role == "column" else (cell.in_channels, "inputs")
            if hasattr(cell, "experts"):
                # A stack, of which each rank has some of the matrices.
                width, side = cell.experts, "experts"
            if width % tp:
                problems.append(f"{path}: {width} {side}, not a multiple of tp={tp}")
    if problems:
        more = [f"... and {len(problems) - 8} more"] if len(problems) > 8 else []
        raise ConfigError(
            "\n  ".join([f"--parallel {layout}:", *problems[:8], *more]),
            hint=f"Give a tp that divides the heads: {', '.join(map(str, _divisors(sites)))}. tp=1 shards no layer.",
        )


def _divisors(sites: Sites) -> list[int]:
    heads, kv_heads = sites.heads, sites.kv_heads or sites.heads
    return [n for n in range(1, kv_heads + 1) if heads % n == 0 and kv_heads % n == 0]
