"""Replay which tensors of a training step are alive, and find the most bytes that are held at once.

A tape holds the operators of the forward pass in order, each with the tensors that its gradient will need. `replay` frees a tensor behind
its last use, as MindSpore's runtime does, and then goes through the gradients in the reverse order: the gradient of an input comes into
being with the gradient of its operator, several of one tensor are summed into a new one, and those of parameters stay until the update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Literal

Part = Literal["activations", "loss", "weights", "gradients", "workspace"]
"""What a tensor counts as: kept from the forward pass, of the logits, a copy of a weight, a parameter's gradient, or soon freed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A tensor on one rank."""

    shape: tuple[int, ...]
    item_bytes: int
    needs_gradient: bool = False
    part: Part = "activations"
    is_parameter: bool = False
    """A parameter of the net, or its copy in another type: its gradient stays until the update."""
    gradient_bytes: int = 0
    """Of a parameter."""
    counted_elsewhere: bool = False
    """It is held all the time."""
    owner: int = 0
    """A number that is the same for a parameter and its copy: their gradients are added up."""
    of: Value | None = None
    """The tensor whose memory it shows in another shape."""

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.item_bytes

    @property
    def root(self) -> Value:
        return self if self.of is None else self.of.root


@dataclass(frozen=True, kw_only=True, eq=False)
class Operator:
    """One operator of the forward pass."""

    inputs: tuple[Value, ...]
    out: Value
    keeps: tuple[Value, ...] = ()
    """Inputs and results that its gradient needs."""
    passes: bool = False
    """The gradient of its inputs is that of its result, without a copy."""
    work: tuple[int, int] = (0, 0)
    """Bytes that it needs while it computes, and that its gradient needs."""
    segment: int | None = None
    """Number of the segment that the backward pass computes again."""


@dataclass(kw_only=True)
class Usage:
    """The bytes that are alive, by part, and those at the peak."""

    now: dict[Part, int] = field(default_factory=dict)
    peak: dict[Part, int] = field(default_factory=dict)
    kept: dict[Part, int] = field(default_factory=dict)
    """Those between the forward and the backward pass."""
    extra: int = 0
    """Bytes held all the time that `peak` leaves out."""

    def add(self, part: Part, count: int) -> None:
        self.now[part] = self.now.get(part, 0) + count
        if count > 0 and sum(self.now.values()) > sum(self.peak.values()):
            self.peak = dict(self.now)


class Tape:
    """Records the operators of a forward pass."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self.segments = 0
        self.segment: int | None = None

    @contextmanager
    def computed_again(self, on: bool) -> Iterator[None]:
        """A context manager: what is recorded in its block is not kept, but computed again in the backward pass, where `on` is true."""
        outer = self.segment
        if on and outer is None:
            self.segments += 1
            self.segment = self.segments
        try:
            yield
        finally:
            self.segment = outer

    def record(
        self,
        inputs: Sequence[Value],
        shape: tuple[int, ...],
        item_bytes: int,
        *,
        keeps: Sequence[Value] = (),
        passes: bool = False,
        keeps_result: bool = False,
        part: Part | None = None,
        work: tuple[int, int] = (0, 0),
    ) -> Value:
        """Record an operator. Returns its result. `keeps_result`: its gradient needs it; `work`: see Operator."""
        needs = any(value.needs_gradient for value in inputs)
        out = Value(
            shape=shape,
            item_bytes=item_bytes,
            needs_gradient=needs,
            part=part or ("loss" if any(value.part == "loss" for value in inputs) else "activations"),
        )
        self.operators.append(
            Operator(
                inputs=tuple(inputs),
                out=out,
                keeps=(*keeps, *((out,) if keeps_result else ())) if needs else (),
                passes=passes,
                work=work,
                segment=self.segment,
            )
        )
        return out

    def view(self, value: Value, shape: tuple[int, ...]) -> Value:
        """Return the same memory in another shape."""
        return Value(
            shape=shape,
            item_bytes=value.item_bytes,
            needs_gradient=value.needs_gradient,
            part=value.part,
            of=value,
        )


class Replay:
    """One pass forward and backward over a tape."""

    def __init__(self, tape: Tape) -> None:
        self.operators = tape.operators
        self.usage = Usage()
        self.alive: set[Value] = set()
        self.holders: dict[Value, int] = {}
        self.gradients: dict[Value | int, list[Gradient]] = {}
        produced = {operator.out.root for operator in self.operators}
        for operator in self.operators:
            for value in operator.inputs:
                if value.root not in produced:
                    self.open(value)

    def run(self) -> Usage:
        """Replay the step up to the last gradient. Returns the bytes at its peak."""
        blocks = self.blocks()
        for block in blocks:
            for operator in block:
                self.hold(operator.inputs, 1)
                self.hold(self.held_outside(operator, block), 1)
        for block in blocks:
            self.forward(block)
        self.usage.kept = dict(self.usage.now)
        for block in reversed(blocks):
            if block[0].segment is not None and any(operator.out.needs_gradient for operator in block):
                self.again(block)
            for operator in reversed(block):
                self.backward(operator)
                self.release(self.read_again(operator, block))
        return self.usage

    def held_outside(self, operator: Operator, block: Sequence[Operator]) -> list[Value]:
        """Return what is held from the forward to the backward pass for an operator of a block."""
        kept = [v for v in operator.keeps if operator.segment is None or not self.inside(v, block)]
        return kept + self.read_again(operator, block)

    def read_again(self, operator: Operator, block: Sequence[Operator]) -> list[Value]:
        """Return what an operator of a segment reads from outside when the segment is computed again."""
        if operator.segment is None or not any(other.out.needs_gradient for other in block):
            return []
        return [value for value in operator.inputs if not self.inside(value, block)]

    def blocks(self) -> list[list[Operator]]:
        """Return the operators, those of a segment that is computed again together."""
        found: list[list[Operator]] = []
        for operator in self.operators:
            if operator.segment is not None and found and found[-1][0].segment == operator.segment:
                found[-1].append(operator)
            else:
                found.append([operator])
        return found

    def inside(self, value: Value, block: Sequence[Operator]) -> bool:
        return any(operator.out.root is value.root for operator in block)

    def hold(self, values: Sequence[Value], count: int) -> None:
        """Count uses that are still to come."""
        for value in values:
            self.holders[value.root] = self.holders.get(value.root, 0) + count

    def open(self, value: Value) -> None:
        root = value.root
        if root not in self.alive and not root.counted_elsewhere:
            self.alive.add(root)
            self.usage.add(root.part, root.bytes)

    def release(self, values: Sequence[Value]) -> None:
        """Count one use as done, and free what has none left."""
        for value in values:
            root = value.root
            self.holders[root] -= 1
            if self.holders[root] == 0 and root in self.alive:
                self.alive.discard(root)
                self.usage.add(root.part, -root.bytes)

    def workspace(self, count: int) -> None:
        self.usage.add("workspace", count)
        self.usage.add("workspace", -count)

    def forward(self, block: Sequence[Operator]) -> None:
        for operator in block:
            self.open(operator.out)
            self.workspace(operator.work[0])
            self.release(operator.inputs)
            # What nothing reads, such as the loss of the step, is freed at once.
            self.hold((operator.out,), 1)
            self.release((operator.out,))

    def again(self, block: Sequence[Operator]) -> None:
        """Compute a segment again, and hold what its gradients need."""
        for operator in block:
            self.hold([v for v in operator.inputs if self.inside(v, block)], 1)
            self.hold([v for v in operator.keeps if self.inside(v, block)], 1)
        last = block[-1].out.root
        for operator in block:
            if operator.out.root is last:
                continue
            self.open(operator.out)
            self.workspace(operator.work[0])
            self.hold((operator.out,), 1)
            self.release([*(v for v in operator.inputs if self.inside(v, block)), operator.out])
        self.release([v for v in block[-1].inputs if self.inside(v, block)])

    def backward(self, operator: Operator) -> None:
        if not operator.out.needs_gradient:
            return
        own = self.summed(operator.out)
        for value in operator.inputs:
            if value.needs_gradient:
                shares = operator.passes and not value.is_parameter
                self.give(value, own if shares else self.gradient_of(value))
        self.workspace(operator.work[1])
        self.drop(own)
        self.release(operator.keeps)

    def summed(self, value: Value) -> Gradient:
        """Return the gradient of a result: of several the sum, in memory of its own."""
        found = self.gradients.pop(value.owner or value.root, [])
        if len(found) == 1:
            return found[0]
        total = Gradient(part="workspace", bytes=value.bytes if found else 0)
        self.usage.add(total.part, total.bytes)
        for gradient in found:
            self.drop(gradient)
        total.holders = 1
        return total

    def gradient_of(self, value: Value) -> Gradient:
        """Make the gradient of an input. A parameter's stays until the update."""
        if value.is_parameter:
            made_from = 0 if value.bytes == value.gradient_bytes else value.bytes
            if self.gradients.get(value.owner or value.root):
                # A matrix that two layers share: a second gradient is added to the first.
                self.workspace(2 * value.gradient_bytes + made_from)
                return Gradient(part="gradients", bytes=0)
            gradient = Gradient(part="gradients", bytes=value.gradient_bytes)
            self.workspace(made_from + gradient.bytes)
        else:
            gradient = Gradient(part="loss" if value.part == "loss" else "workspace", bytes=value.bytes)
        self.usage.add(gradient.part, gradient.bytes)
        return gradient

    def give(self, value: Value, gradient: Gradient) -> None:
        gradient.holders += 1
        self.gradients.setdefault(value.owner or value.root, []).append(gradient)

    def drop(self, gradient: Gradient) -> None:
        gradient.holders -= 1
        if gradient.holders == 0:
            self.usage.add(gradient.part, -gradient.bytes)


@dataclass(kw_only=True)
class Gradient:
    """The memory of a gradient, which several tensors may share."""

    part: Part
    bytes: int
    holders: int = 0
