"""Compute rotary position embeddings: the frequencies of every scaling of the llama families, and the tables of one forward pass.

Frequencies are computed in float32 in the order of transformers, as their last bit matters at long positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.models.fields import Fields
from petrun.tensors import Array
from petrun.typing import DType, JsonObject

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
_LISTS = ("short_factor", "long_factor")
_OPTIONAL = (
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "rope_theta",
)
_BENIGN = ("type", "rope_type", "finetuned", "truncate", "partial_rotary_factor", *_LISTS)


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary positions as config.json describes them."""

    kind: str
    theta: float
    width: int
    """Features of a head that are rotated, from its first one on."""
    head_dim: int
    """D."""
    interleaved: bool = False
    """Whether neighbours are a pair, (0, 1), (2, 3) ...; else features half of `width` apart."""
    positions: int
    """max_position_embeddings."""
    original_positions: int
    factor: float = 1.0
    factor_stated: bool = False
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    """longrope: divisors of the frequencies in rows of at most `original_positions` tokens, (width / 2,)."""
    long_factor: tuple[float, ...] = ()
    """longrope: those in longer rows."""

    @property
    def fixed_to(self) -> int | None:
        """Tokens of a row up to which a key stays as it is while the row grows; None: any number."""
        return {"dynamic": self.positions, "longrope": self.original_positions}.get(self.kind)

    @property
    def fixed_by(self) -> str:
        """The field of config.json that says it."""
        return "max_position_embeddings" if self.kind == "dynamic" else "original_max_position_embeddings"

    @property
    def is_paired(self) -> bool:
        """Whether the rotation is not that of the two halves of a head, for which there is an operator."""
        return self.interleaved or self.width != self.head_dim


_OF_A_PART = ("default", "linear", "llama3", "longrope")
"""Kinds that are computed for a part of each head, or for neighbours as pairs."""


def parse_rope(
    f: Fields, head_dim: int, positions: int, *, share: float | None = None, interleaved: bool = False
) -> Rope:
    """Parse transformers 5's rope_parameters, or transformers 4's rope_theta and rope_scaling. Problems are recorded in `f`.

    `share`: partial_rotary_factor where config.json does not state it, of a family that rotates a part of each head; None: of others.
    """
    key = "rope_scaling" if f.raw.get("rope_scaling") else "rope_parameters"
    stored = f.raw.get(key) or {}
    if not isinstance(stored, Mapping):
        f.wrong(key, stored, "an object")
        stored = {}
    inner = {k: v for k, v in stored.items() if v is not None}
    kind = inner.get("rope_type", inner.get("type", "default"))
    partial = inner.get("partial_rotary_factor", f.raw.get("partial_rotary_factor"))
    width = head_dim
    if share is not None:
        width = _rotated(f, head_dim, share if partial is None else partial)
    elif partial not in (None, 1, 1.0):
        f.unsupported("partial_rotary_factor", partial, "1.0")
    if width % 2:
        f.wrong("head_dim", width, "even, for rotary positions")
    if (width != head_dim or interleaved) and kind in REQUIRED and kind not in _OF_A_PART:
        f.unsupported(f"{key}.rope_type", kind, ", ".join(sorted(_OF_A_PART)))
    if kind not in REQUIRED:
        f.unsupported(f"{key}.rope_type", kind, ", ".join(sorted(REQUIRED)))
        return Rope(
            kind="default",
            theta=1e4,
            width=width,
            head_dim=head_dim,
            positions=positions,
            original_positions=positions,
        )
    numbers: dict[str, Any] = {**_numbers(f, key, inner, str(kind))}
    truncate = inner.get("truncate", True)
    if not isinstance(truncate, bool):
        f.wrong(f"{key}.truncate", truncate, "true or false")
    # transformers writes it in both places; where they differ, it takes the outer one.
    inner_original = int(numbers.pop("original_max_position_embeddings", positions))
    original = f.integer("original_max_position_embeddings", inner_original)
    theta = numbers.pop("rope_theta", None) or f.positive("rope_theta", 10000.0)
    if kind == "dynamic" and width < 4:
        f.wrong("head_dim", width, "at least 4, for dynamic rope scaling")
    return Rope(
        kind=str(kind),
        theta=theta,
        width=width,
        head_dim=head_dim,
        interleaved=interleaved,
        positions=positions,
        original_positions=original,
        factor_stated="factor" in numbers,
        truncate=bool(truncate),
        short_factor=_divisors(f, key, "short_factor", inner, width // 2),
        long_factor=_divisors(f, key, "long_factor", inner, width // 2),
        **numbers,
    )


def _divisors(f: Fields, key: str, name: str, inner: JsonObject, count: int) -> tuple[float, ...]:
    """Return longrope's divisors of `count` frequencies; () where there are none."""
    value = inner.get(name)
    if value is None:
        return ()
    numbers = value if isinstance(value, list) else []
    if len(numbers) != count or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in numbers
    ):
        f.wrong(f"{key}.{name}", value, f"a list of {count} numbers above 0")
        return (1.0,) * count
    return tuple(map(float, numbers))


def _rotated(f: Fields, head_dim: int, share: object) -> int:
    """Return how many features of a head are rotated."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1 or int(head_dim * share) < 2:
        f.wrong("partial_rotary_factor", share, f"a number above 0, at most 1, that leaves two of {head_dim} features")
        return head_dim
    return int(head_dim * share)


def _numbers(f: Fields, key: str, inner: JsonObject, kind: str) -> dict[str, float]:
    wanted = {*_OPTIONAL, *(n for names in REQUIRED.values() for n in names)}
    numbers = {}
    for name, value in inner.items():
        if name in _BENIGN:
            continue
        if name not in wanted:
            f.unsupported(f"{key}.{name}", value, f"the keys {', '.join(sorted(wanted))}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            f.wrong(f"{key}.{name}", value, "a number above 0")
        else:
            numbers[name] = value
    for name in REQUIRED[kind]:
        if name not in inner:
            f.problems.append(f"{key}.{name} is missing for rope_type = {kind}")
    return numbers


def frequencies(rope: Rope) -> tuple[Array, float]:
    """Return (D / 2,) float32 inverse frequencies, and the factor that multiplies cos and sin.

    default   w_i = theta^(-2i / D).                        Source: Su et al., arXiv:2104.09864, section 3.2.2.
    linear    w_i / s.                                      Source: Chen et al., arXiv:2306.15595, eq. (4).
    dynamic   the default up to max_position_embeddings; beyond, theta grows with the length: see Rotary.
    llama3    w_i / s where a wave is longer than L / low, w_i where shorter than L / high, a linear blend between them.
              Source: Llama 3.1, reference implementation, `apply_scaling`.
    yarn      w_i below a ramp, w_i / s above it, the ramp set by beta_fast and beta_slow rotations over L.
              Source: Peng et al., arXiv:2309.00071, sections 3.2 to 3.4; the factor is eq. (22): 0.1 ln(s) + 1.
    longrope  w_i / short_i; in rows longer than L, w_i / long_i: see Rotary. The factor is sqrt(1 + ln(s) / ln(L)), s = M / L where not
              stated. Source: Ding et al., arXiv:2402.13753, and transformers, `_compute_longrope_parameters`.
    """
    steps = np.arange(0, rope.width, 2).astype(np.float32) / np.float32(rope.width)
    waves = np.power(np.float32(rope.theta), steps)
    plain = np.float32(1.0) / waves
    if rope.kind == "linear":
        return plain / np.float32(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, waves), _yarn_factor(rope)
    if rope.kind == "longrope":
        return _divided(waves, rope.short_factor), _longrope_factor(rope)
    return plain, 1.0


def _divided(waves: Array, divisors: tuple[float, ...]) -> Array:
    return np.float32(1.0) / (np.array(divisors, np.float32) * waves)


def _longrope_factor(rope: Rope) -> float:
    if rope.attention_factor is not None:
        return float(rope.attention_factor)
    factor = rope.factor if rope.factor_stated else rope.positions / rope.original_positions
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(rope.original_positions))


def long_frequencies(rope: Rope) -> Array:
    """Return longrope's inverse frequencies in rows longer than `original_positions`, (width / 2,) float32."""
    steps = np.arange(0, rope.width, 2).astype(np.float32) / np.float32(rope.width)
    return _divided(np.power(np.float32(rope.theta), steps), rope.long_factor)


def _llama3(rope: Rope, plain: Array) -> Array:
    length, low, high = rope.original_positions, rope.low_freq_factor, rope.high_freq_factor
    wave = np.float32(2 * math.pi) / plain
    blend = (np.float32(length) / wave - np.float32(low)) / np.float32(high - low)
    slow = plain / np.float32(rope.factor)
    mixed = (np.float32(1) - blend) * slow + blend * plain
    return np.where(wave > length / low, slow, np.where(wave < length / high, plain, mixed)).astype(np.float32)


def _yarn(rope: Rope, waves: Array) -> Array:
    def dimension(rotations: float) -> float:
        return rope.width * math.log(rope.original_positions / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.width - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(rope.width // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    keep = np.float32(1) - ramp
    scaled = np.float32(1) / (np.float32(rope.factor) * waves)
    return (scaled * (np.float32(1) - keep) + (np.float32(1) / waves) * keep).astype(np.float32)


def _yarn_factor(rope: Rope) -> float:
    if rope.attention_factor is not None:
        return float(rope.attention_factor)

    def term(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return term(rope.mscale) / term(rope.mscale_all_dim)
    return term(1.0)


class Rotary(nn.Cell):
    """cos and sin of position * frequency, times the scaling's factor; made once a forward pass.

    dynamic: with L the longest position + 1, M = max_position_embeddings, and L > M,
    theta' = theta * (s L / M - s + 1)^(D / (D - 2)). Source: transformers, `_compute_dynamic_ntk_parameters`; it is a function of
    this pass alone, as in a model without a longer pass before. longrope: the long frequencies where the longest position + 1 is above
    original_max_position_embeddings.
    Inputs: position_ids (B, T) int32. Returns: cos, sin (B, 1, T, D) in the given dtype.
    """

    def __init__(self, rope: Rope, dtype: DType) -> None:
        super().__init__()
        inverse, self.scale = frequencies(rope)
        self.is_paired = rope.is_paired
        self.inverse = self.row(rope, inverse)
        self.dynamic, self.is_long = rope.kind == "dynamic", rope.kind == "longrope"
        if self.is_long:
            self.long, self.short_positions = self.row(rope, long_frequencies(rope)), float(rope.original_positions)
        self.factors: Tensor | float = self.scale
        if rope.is_paired and self.scale != 1.0:
            # Features that are not rotated are not multiplied.
            rotated = of_features(rope, np.ones_like(inverse)) > 0
            self.factors = Tensor(np.where(rotated, np.float32(self.scale), np.float32(1)).reshape(1, 1, 1, -1))
        self.steps = Tensor((np.arange(0, rope.width, 2) / rope.width).astype(np.float32).reshape(1, 1, 1, -1))
        self.theta = float(rope.theta)
        self.factor = float(rope.factor)
        self.positions = float(rope.positions)
        self.exponent = rope.width / (rope.width - 2) if rope.width > 2 else 1.0
        self.dtype = dtype
        self.head_axis, self.width_axis, self.angle, self.double = (
            ops.ExpandDims(),
            ops.ExpandDims(),
            ops.Mul(),
            ops.Concat(-1),
        )
        self.cos, self.sin, self.cos_scale, self.sin_scale = ops.Cos(), ops.Sin(), ops.Mul(), ops.Mul()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the tables by rows of the batch."""
        table = (dp, 1, 1, 1)
        self.head_axis.shard(((dp, 1),))
        self.width_axis.shard(((dp, 1, 1),))
        self.angle.shard((table, (1, 1, 1, 1)))
        self.double.shard((table, table))
        for operator in (self.cos, self.sin):
            operator.shard((table,))
        self.cos_scale.shard((table, (1, 1, 1, 1) if isinstance(self.factors, Tensor) else ()))
        self.sin_scale.shard((table, ()))

    def row(self, rope: Rope, inverse: Array) -> Tensor:
        """Lay frequencies out as they meet positions, (1, 1, 1, D / 2), or (1, 1, 1, D) where features are rotated in pairs."""
        return Tensor((of_features(rope, inverse) if rope.is_paired else inverse).reshape(1, 1, 1, -1))

    def stretched(self, positions: Tensor) -> Tensor:
        length = ops.maximum(ops.reduce_max(positions) + 1.0, Tensor(self.positions, ms.float32))
        theta = self.theta * ops.pow(self.factor * length / self.positions - (self.factor - 1.0), self.exponent)
        return ops.select(length > self.positions, 1.0 / ops.pow(theta, self.steps), self.inverse)

    def construct(self, position_ids: Tensor) -> Tensor:
        positions = ops.cast(position_ids, ms.float32)
        inverse = self.stretched(positions) if self.dynamic else self.inverse
        if self.is_long:
            inverse = ops.select(ops.reduce_max(positions) + 1.0 > self.short_positions, self.long, self.inverse)
        angles = self.angle(self.width_axis(self.head_axis(positions, 1), 3), inverse)
        if not self.is_paired:
            angles = self.double((angles, angles))
        cos, sin = self.cos_scale(self.cos(angles), self.factors), self.sin_scale(self.sin(angles), self.scale)
        return ops.cast(cos, self.dtype), ops.cast(sin, self.dtype)


def pairs(rope: Rope) -> list[tuple[int, int]]:
    """Return the features that are rotated together, in the order of their frequencies."""
    half = rope.width // 2
    return [(2 * i, 2 * i + 1) if rope.interleaved else (i, i + half) for i in range(half)]


def of_features(rope: Rope, inverse: Array) -> Array:
    """Return the frequency of each feature of a head, (D,) float32: 0 for those that are not rotated."""
    found = np.zeros(rope.head_dim, np.float32)
    for (first, second), frequency in zip(pairs(rope), inverse, strict=True):
        found[first] = found[second] = frequency
    return found


class RotatePairs(nn.Cell):
    """Rotates pairs of features: y_a = x_a cos - x_b sin, y_b = x_b cos + x_a sin. Features without a pair stay as they are.

    Computed as x * cos + (x S) * sin, S with a 1 and a -1 for each pair, so that nothing is taken apart.
    Inputs: x (B, N, T, D), cos and sin (B, 1, T, D), x's dtype; no gradient reaches them. Returns: (B, N, T, D).
    """

    def __init__(self, rope: Rope) -> None:
        super().__init__()
        swap = np.zeros((rope.head_dim, rope.head_dim), np.float32)
        for first, second in pairs(rope):
            swap[second, first], swap[first, second] = -1.0, 1.0
        self.swap = Tensor(swap)
        self.width = rope.head_dim
        self.is_split = False
        self.product, self.split_product = ops.MatMul(), ops.BatchMatMul()
        self.straight, self.crossed, self.add = ops.Mul(), ops.Mul(), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Heads over tp ranks; cos and sin are the same for all."""
        heads, table = (dp, tp, 1, 1), (dp, 1, 1, 1)
        # With heads over ranks a rank's rows and heads are no run of B * N * T: laid flat, they would be gathered.
        self.is_split = tp > 1
        self.product.shard(((dp, 1), (1, 1)))
        self.split_product.shard((heads, (1, 1, 1, 1)))
        self.straight.shard((heads, table))
        self.crossed.shard((heads, table))
        self.add.shard((heads, heads))

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        swap = ops.cast(self.swap, x.dtype)
        if self.is_split:
            swapped = self.split_product(x, ops.reshape(swap, (1, 1, self.width, self.width)))
        else:
            swapped = ops.reshape(self.product(ops.reshape(x, (-1, self.width)), swap), x.shape)
        return self.add(self.straight(x, ops.stop_gradient(cos)), self.crossed(swapped, ops.stop_gradient(sin)))
