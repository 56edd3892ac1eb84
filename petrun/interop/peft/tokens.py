"""Read trainable_token_indices of peft adapters: trained rows of an embedding, or of the head, stored instead of the base's.

Source: peft 0.21, utils/other.py set_additional_trainable_modules (which modules are meant), tuners/trainable_tokens/layer.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from petrun.interop.peft.config import names_module
from petrun.interop.peft.reading import Reading


def replace_rows(reading: Reading, tokens: Mapping[str, tuple[int, ...]], held: Mapping[str, str]) -> None:
    """Add the full matrices of which the adapter holds rows to the reading. `tokens`: trainable_token_indices; `held`: module of the file
    -> name of its rows there. On a base that ties head and embedding, rows of the embedding count for both, unless the head has its own.
    """
    modules = {parameter: _module(reading, parameter) for parameter in reading.names if parameter.endswith(".weight")}
    wanted = {_module_weight(reading, modules, name): rows for name, rows in tokens.items()}
    wanted.pop("", None)
    for own, ours in reading.shared.items():
        if ours in wanted and wanted.get(own, wanted[ours]) == wanted[ours]:
            wanted.pop(own, None)
            reading.of_both.add(ours)
    given = {reading.resolve(f"{module}.weight"): stored for module, stored in held.items()}
    for parameter in given.keys() - wanted.keys():
        reading.problems.append(f"{given[parameter]}: trainable_token_indices does not name its module")
    for parameter, rows in wanted.items():
        stored = given.get(parameter)
        if stored is None:
            reading.problems.append(
                f"{modules[parameter]}: trainable_token_indices names it, but the file lacks its rows"
            )
        elif parameter in reading.found or parameter.removesuffix(".weight") in reading.adapted():
            reading.problems.append(
                f"{modules[parameter]}: trainable_token_indices on a layer that is trained otherwise as well"
            )
        else:
            _replace(reading, parameter, rows, stored)


def _module(reading: Reading, parameter: str) -> str:
    return reading.names[parameter].name.removesuffix(".weight")


def _module_weight(reading: Reading, modules: Mapping[str, str], name: str) -> str:
    """Return the weight of the module that the config names ("" names the token embedding); "", and a problem, where there is none."""
    if not name:
        table = reading.sites.embedding if reading.sites is not None else ""
        found = [f"{table}.weight"] if f"{table}.weight" in modules else []
    else:
        found = [parameter for parameter, module in modules.items() if names_module((name,), module)]
    if len(found) != 1:
        what = name or "the token embedding"
        reading.problems.append(
            f"trainable_token_indices: {what} is {'none' if not found else 'several'} of the base's layers"
        )
        return ""
    return found[0]


def _replace(reading: Reading, parameter: str, rows: tuple[int, ...], stored: str) -> None:
    values = reading.delta.tensors[stored]
    # For a tied head the base has the embedding's matrix.
    base = reading.base_value(reading.shared.get(parameter, parameter), f"trainable_token_indices: {stored}")
    if base is None:
        return
    if values.shape != (len(rows), base.shape[1]) or max(rows, default=0) >= len(base):
        reading.problems.append(
            f"{stored}: is {list(values.shape)}, and trainable_token_indices names {len(rows)} rows of a matrix of {list(base.shape)}"
        )
        return
    full = base.copy()
    full[list(rows)] = values
    reading.made[parameter] = full
