"""Find and swap cells in a net. The only file that assigns cells.

Two facts of MindSpore matter: a net that was called before keeps its compiled graph after a cell is swapped, so the compile cache
is cleared; and a swapped cell renames its parameters by the local attribute, so the names are restored afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from mindspore import Parameter, nn

from petrun.errors import TargetError, did_you_mean
from petrun.graph.sites import Sites
from petrun.typing import Cell

ALL_LINEAR = "all-linear"


def cells(net: Cell) -> dict[str, Cell]:
    """Return path -> cell, for every cell but the net itself."""
    return {path: cell for path, cell in net.cells_and_names() if path}


def shared_names(net: Cell) -> dict[str, str]:
    """Return, for every parameter that two cells share, the name it would have in the later cell -> its name."""
    seen: set[int] = set()
    found: dict[str, str] = {}
    for path, cell in net.cells_and_names():
        for leaf, parameter in cell._params.items():
            if parameter is not None and id(parameter) in seen:
                found[f"{path}.{leaf}".removeprefix(".")] = parameter.name
            seen.add(id(parameter))
    return found


def untie(net: Cell, name: str) -> None:
    """Give the layer that shares a matrix a copy of its own, under `name`, which ends in the attribute: head.weight."""
    path, _, leaf = name.rpartition(".")
    cell = cells(net)[path]
    shared = getattr(cell, leaf)
    own = Parameter(shared.value().copy(), name=name, requires_grad=shared.requires_grad)
    setattr(cell, leaf, own)
    own.name = name
    _forget_graphs(net)


def dense_paths(net: Cell) -> tuple[str, ...]:
    """Return the paths of all nn.Dense cells, in the net's order."""
    return tuple(path for path, cell in cells(net).items() if isinstance(cell, nn.Dense))


def _is_glob(text: str) -> bool:
    return any(c in text for c in "*?[")


def _matches(target: str, path: str, hf_path: str) -> bool:
    """Return whether a target matches: a glob matches a full path (from the start or from any dot), a plain name the end of a path."""
    for full in (path, hf_path):
        if not full:
            continue
        if full == target or full.endswith("." + target):
            return True
        if _is_glob(target) and (fnmatchcase(full, target) or fnmatchcase(full, "*." + target)):
            return True
    return False


def _select(target: str, linear: tuple[str, ...], dense: tuple[str, ...], sites: Sites) -> list[str]:
    if target == ALL_LINEAR:
        return list(linear)
    if target in sites.linears:
        return [p for p in dense if fnmatchcase(p, sites.linears[target])]
    # A glob over all paths also matches the head, which is adapted only where a target of its own names it.
    pool = linear if _is_glob(target) else dense
    return [p for p in pool if _matches(target, p, sites.hf_paths.get(p, ""))]


def _named(target: str, tables: tuple[str, ...], sites: Sites) -> list[str]:
    """Return the embeddings that a target names."""
    if _is_glob(target):
        return []
    return [p for p in tables if _matches(target, p, sites.hf_paths.get(p, ""))]


def resolve_targets(
    net: Cell, sites: Sites, targets: Iterable[str] | None, exclude: Iterable[str] = (), *, tables: bool = False
) -> tuple[str, ...]:
    """Turn roles, Hugging Face leaf names, globs over full paths and `all-linear` into paths of nn.Dense cells.

    `tables`: the model's embeddings may be targets too, each by its name; globs and all-linear do not match them.
    Raises one TargetError for all targets and exclusions that match nothing, with the nearest names.
    """
    return select_paths(dense_paths(net), sites, targets, exclude, sites.tables if tables else ())


def select_paths(
    dense: tuple[str, ...],
    sites: Sites,
    targets: Iterable[str] | None,
    exclude: Iterable[str] = (),
    tables: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Do as `resolve_targets` among layers that are known by their paths alone."""
    if not dense:
        raise TargetError("the model has no nn.Dense cell that a delta could be attached to")
    linear = tuple(p for p in dense if any(fnmatchcase(p, g) for g in sites.linears.values())) or dense
    wanted = tuple(targets) if targets is not None else (sites.default_roles or (ALL_LINEAR,))
    if not wanted:
        raise TargetError("--target names nothing", hint=_known_targets(dense, sites))
    chosen: dict[str, None] = {}
    problems = []
    for target in wanted:
        hits = [*_named(target, tables, sites), *_select(target, linear, dense, sites)]
        if not hits and _named(target, sites.tables, sites):
            problems.append(f"--target {target} is an embedding, not a linear layer: lora alone adapts embeddings")
        elif not hits:
            problems.append(f"--target {target} matches no linear layer. {_near(target, dense, sites)}")
        chosen.update(dict.fromkeys(hits))
    dropped: set[str] = set()
    for pattern in exclude:
        meant = [*_named(pattern, tables, sites), *_select(pattern, linear, dense, sites)]
        hits = [p for p in chosen if p in meant]
        if not hits and chosen:
            problems.append(f"--exclude {pattern} {_without_effect(pattern, linear, dense, sites, tuple(chosen))}")
        dropped.update(hits)
    if problems:
        raise TargetError("\n".join(problems), hint=_known_targets(dense, sites))
    left = tuple(p for p in (*tables, *dense) if p in chosen and p not in dropped)
    if not left:
        raise TargetError(f"--exclude takes away every layer that --target {','.join(wanted)} matched")
    return left


def _vocabulary(dense: Iterable[str], sites: Sites) -> set[str]:
    names = {ALL_LINEAR, *sites.linears}
    for path in dense:
        names.add(path.rpartition(".")[2])
        if path in sites.hf_paths:
            names.add(sites.hf_paths[path].rpartition(".")[2])
    return {n for n in names if not n.isdigit()}


def _near(name: str, dense: Iterable[str], sites: Sites) -> str:
    paths = list(dense)
    candidates = {*paths, *(sites.hf_paths[p] for p in paths if p in sites.hf_paths)} if "." in name else set()
    return did_you_mean(name, candidates or _vocabulary(paths, sites))


def _without_effect(
    pattern: str, linear: tuple[str, ...], dense: tuple[str, ...], sites: Sites, chosen: tuple[str, ...]
) -> str:
    """Return why a pattern excludes no target: it names other layers, or none."""
    others = _select(pattern, linear, dense, sites)
    if others:
        count = f"{len(others)} layers, such as {others[0]}," if len(others) > 1 else f"the layer {others[0]},"
        return f"matches {count} and no target. Leave it out, or see what --target names."
    return f"matches none of the targets. {_near(pattern, chosen, sites)}"


def _known_targets(dense: tuple[str, ...], sites: Sites) -> str:
    roles = ", ".join(sites.linears) or "none"
    leaves = ", ".join(sorted(_vocabulary(dense, sites) - set(sites.linears) - {ALL_LINEAR}))
    return (
        f"Roles of this model: {roles}. Layer names: {leaves}. "
        f"Or all-linear, or a glob over full paths such as '{dense[0].rpartition('.')[0]}.*'."
    )


def swap(net: Cell, builders: Mapping[str, Callable[[Cell], Cell]]) -> tuple[str, ...]:
    """Replace the cell at each path by builder(cell). Base parameters keep their names; returns the names of the new ones."""
    known = {id(p): p.name for p in net.get_parameters()}
    table = {"": net, **cells(net)}
    for path, build in builders.items():
        parent, _, leaf = path.rpartition(".")
        _assign(table[parent], leaf, build(table[path]))
    added = []
    for path, parameter in net.parameters_and_names():
        if id(parameter) in known:
            parameter.name = known[id(parameter)]
        else:
            parameter.name = path
            added.append(path)
    _forget_graphs(net)
    return tuple(added)


def _forget_graphs(net: Cell) -> None:
    # Every cell on the path may have been called, and so compiled, by itself.
    for _, cell in net.cells_and_names():
        cell.compile_cache.clear()


def _assign(parent: Cell, leaf: str, cell: Cell) -> None:
    if isinstance(parent, nn.CellList | nn.SequentialCell):
        # Item assignment of these containers guesses a name prefix from the parameters' names and fails on deeper cells.
        parent._cells[leaf] = cell
        if isinstance(parent, nn.SequentialCell):
            parent.cell_list = list(parent._cells.values())
    else:
        setattr(parent, leaf, cell)
