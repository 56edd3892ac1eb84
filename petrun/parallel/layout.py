"""The layout of a job's ranks: data, tensor and pipeline parallel, and how the optimizer's state is split.

Ranks are counted pipeline stage by stage; within a stage the data-parallel rows, and within a row the tensor-parallel columns, lie
side by side: rank = (stage * dp + row) * tp + column, as MindSpore's own order has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from petrun.errors import ConfigError, did_you_mean
from petrun.typing import JsonObject

if TYPE_CHECKING:
    from petrun.config.schema import ParallelConfig

_EXAMPLE = "Example: --parallel dp=2,tp=4,pp=1,zero=1"
_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of dp * tp * pp ranks. Raises ConfigError for numbers that no job can have."""

    dp: int = 1
    """Rows: ranks that read different data."""
    tp: int = 1
    """Columns: ranks that hold slices of each layer."""
    pp: int = 1
    """Stages: ranks that hold different layers."""
    zero: int = 0
    """The state that data-parallel ranks split among them: 1 the optimizer's state, 2 the gradients too, 3 the weights too."""
    micro_batches: int = 1
    """The number of micro-batches that a pipeline splits each batch into."""
    sequence: bool = False
    """Between the layers, tokens are split over the columns."""

    def __post_init__(self) -> None:
        problems = [f"{key}={getattr(self, key)}: must be at least 1" for key in SIZES if getattr(self, key) < 1]
        if not 0 <= self.zero <= 3:
            problems.append(f"zero={self.zero}: must be 0, 1, 2 or 3")
        if self.pp == 1 and self.micro_batches > 1:
            problems.append(f"micro_batches={self.micro_batches}: only a pipeline has them (pp=2 or more)")
        if self.pp > 1 and 1 <= self.micro_batches < self.pp:
            problems.append(
                f"micro_batches={self.micro_batches}: a pipeline of pp={self.pp} stages needs at least {self.pp}"
            )
        if self.sequence and self.tp == 1:
            problems.append("sequence=true: tokens are split over tp ranks, of which there is 1")
        if self.zero and self.dp == 1:
            problems.append(f"zero={self.zero}: splits over dp ranks, of which there is 1")
        if problems:
            raise ConfigError("\n".join(f"--parallel {problem}" for problem in problems), hint=_EXAMPLE)

    @property
    def world(self) -> int:
        """Ranks of the job."""
        return self.dp * self.tp * self.pp

    @property
    def split(self) -> bool:
        """True where the net's operators or the optimizer's state are split: more than plain data parallel."""
        return self.tp > 1 or self.pp > 1 or self.zero > 0

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """Return (stage, row, column) of a rank."""
        return rank // (self.dp * self.tp), rank // self.tp % self.dp, rank % self.tp

    def __str__(self) -> str:
        shown = [f"{key}={getattr(self, key)}" for key in ("dp", "tp", "pp", "zero")]
        shown += [f"micro_batches={self.micro_batches}"] if self.pp > 1 else []
        return ",".join(shown + (["sequence=true"] if self.sequence else []))


SIZES = ("dp", "tp", "pp", "micro_batches")
KEYS = tuple(field.name for field in fields(Layout))
"""Settings of section `parallel` that --parallel names: a layout has the same."""


def parse_layout(text: str) -> dict[str, int | bool]:
    """Parse `dp=2,tp=4,pp=1,zero=1`, or `auto`, into the settings of section `parallel` that it gives.

    The section, with a recipe's settings below these and those of --set above, is the request that `complete_layout` takes.
    Raises ConfigError with every problem found.
    """
    if text == "auto":
        return {"auto": True}
    found: dict[str, int | bool] = {}
    problems = []
    for part, key, value in _parts(text):
        if key not in KEYS:
            problems.append(f"{part!r}: no key of a layout. {did_you_mean(key, KEYS)}")
        elif key in found:
            problems.append(f"{part!r}: {key} stands twice")
        elif key == "sequence":
            if value.lower() not in _YES_NO:
                problems.append(f"{part!r}: must be true or false")
            found[key] = _YES_NO.get(value.lower(), False)
        elif not (value.isascii() and value.isdigit()):
            problems.append(f"{part!r}: must be a whole number")
            found[key] = 0
        else:
            found[key] = int(value)
    if not found and not problems:
        problems = ["names nothing"]
    if problems:
        raise ConfigError("\n".join(f"--parallel {problem}" for problem in problems), hint=_EXAMPLE)
    return found


def _parts(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (as typed, key, value) of every part between commas."""
    for part in text.split(","):
        if part.strip():
            key, _, value = part.partition("=")
            yield part.strip(), key.strip().lower(), value.strip()


def complete_layout(request: ParallelConfig, world: int) -> Layout:
    """Return the layout of a job of `world` ranks. `dp` None: all that tp and pp leave. `micro_batches` None: as many as there are stages.

    Raises ConfigError where the product is not the job's size.
    """
    dp, tp, pp = request.dp, request.tp, request.pp
    settled: JsonObject = {key: getattr(request, key) for key in KEYS}
    for key, left in (("dp", max(1, world // (tp * pp))), ("micro_batches", pp)):
        settled[key] = left if settled[key] is None else settled[key]
    layout = Layout(**settled)
    if layout.world != world:
        asked = f"dp={layout.dp} * tp={tp} * pp={pp} = {layout.world} ranks" if dp is not None else f"tp={tp} * pp={pp}"
        verb = "the job has" if dp is not None else "does not divide the job's"
        raise ConfigError(f"--parallel {asked}: {verb} {world}", hint=f"dp * tp * pp must be {world}.")
    return layout
