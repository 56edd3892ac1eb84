"""P-tuning: a prompt encoder gives the learned vectors before the embedded row.

    E_prompt = MLP(E)                    mlp:  H -> M -> M -> H, ReLU between
    E_prompt = MLP(BiLSTM(E))            lstm: two layers of M a direction, then 2M -> 2M -> H, ReLU between

Source: Liu et al., "GPT Understands, Too", arXiv 2103.10385, section 3.2, eq. 4. The widths of both encoders are peft's.
The encoder is saved with the delta, so that training can continue; in use only its result counts.
"""

from __future__ import annotations

from typing import Annotated, Literal

import mindspore as ms
from mindspore import nn, ops
from pydantic import Field

from petrun.delta.method import OF_THE_RUN, Method, MethodConfig
from petrun.delta.parts import (
    ENCODER_ALONE,
    PROMPT_TABLE,
    Affine,
    Table,
    added_tokens,
    draw_normal,
    require_hidden,
    switch_prompt,
)
from petrun.graph.sites import Sites
from petrun.graph.virtual_tokens import add_prompt
from petrun.kernels import Dropout, Tanh
from petrun.typing import Cell, Tensor


class PtuningConfig(MethodConfig):
    """Settings of P-tuning."""

    tokens: int = Field(20, ge=1, description="P: learned vectors before the row")
    encoder: Literal["mlp", "lstm"] = Field("mlp", description="what gives the vectors")
    middle: int = Field(128, ge=1, description="M: width of the encoder")
    dropout: Annotated[float, OF_THE_RUN] = Field(
        0.0, ge=0.0, lt=1.0, description="between the layers of the lstm, while training"
    )


class Lstm(nn.Cell):
    """One direction of an LSTM over P steps, (P, in) -> (P, M), from a zero state; written out step by step, as P is small.

    [i f g o] = x_t W^T + h_{t-1} U^T + b;  c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);  h_t = sigmoid(o) tanh(c_t)

    Source: Hochreiter and Schmidhuber, 1997, with forget gates (Gers et al., 2000); torch.nn.LSTM's order of gates.
    Owns: input (4M, in) and state (4M, M), each with a bias (4M,).
    """

    def __init__(self, wide_in: int, middle: int, backward: bool, seed: int, site: str) -> None:
        super().__init__()
        self.middle = middle
        self.backward = backward
        self.input = Affine(wide_in, 4 * middle, seed, f"{site}.input")
        self.state = Affine(middle, 4 * middle, seed, f"{site}.state")
        self.tanh = Tanh()

    def construct(self, x: Tensor) -> Tensor:
        steps = x.shape[0]
        given = self.input(x)
        hidden = ops.zeros((1, self.middle), ms.float32)
        memory = hidden
        found: tuple[Tensor, ...] = ()
        for i in range(steps):
            t = steps - 1 - i if self.backward else i
            gates = given[t : t + 1] + self.state(hidden)
            enter, forget, new, leave = ops.split(gates, self.middle, 1)
            memory = ops.sigmoid(forget) * memory + ops.sigmoid(enter) * self.tanh(new)
            hidden = ops.sigmoid(leave) * self.tanh(memory)
            found = (hidden, *found) if self.backward else (*found, hidden)
        return ops.concat(found, 0)


class MlpEncoder(nn.Cell):
    """() -> (P, H). Owns: embedding (P, H), three layers H -> M -> M -> H."""

    def __init__(self, tokens: int, hidden: int, middle: int, seed: int) -> None:
        super().__init__()
        self.embedding = Table(draw_normal(seed, "ptuning.embedding", (tokens, hidden), 1.0))
        self.first = Affine(hidden, middle, seed, "ptuning.first")
        self.second = Affine(middle, middle, seed, "ptuning.second")
        self.last = Affine(middle, hidden, seed, "ptuning.last")

    def construct(self) -> Tensor:
        return self.last(ops.relu(self.second(ops.relu(self.first(self.embedding())))))


class LstmEncoder(nn.Cell):
    """() -> (P, H). Owns: embedding (P, H), two bidirectional LSTM layers of width M, two layers 2M -> 2M -> H."""

    def __init__(self, tokens: int, hidden: int, middle: int, dropout: float, seed: int) -> None:
        super().__init__()
        self.embedding = Table(draw_normal(seed, "ptuning.embedding", (tokens, hidden), 1.0))
        self.forward_1 = Lstm(hidden, middle, False, seed, "ptuning.forward_1")
        self.backward_1 = Lstm(hidden, middle, True, seed, "ptuning.backward_1")
        self.dropout = Dropout(dropout, seed, "ptuning.dropout", rows=False)
        self.forward_2 = Lstm(2 * middle, middle, False, seed, "ptuning.forward_2")
        self.backward_2 = Lstm(2 * middle, middle, True, seed, "ptuning.backward_2")
        self.first = Affine(2 * middle, 2 * middle, seed, "ptuning.first")
        self.last = Affine(2 * middle, hidden, seed, "ptuning.last")

    def construct(self) -> Tensor:
        x = self.embedding()
        x = self.dropout(ops.concat((self.forward_1(x), self.backward_1(x)), 1))
        x = ops.concat((self.forward_2(x), self.backward_2(x)), 1)
        return self.last(ops.relu(self.first(x)))


class PtuningCell(nn.Cell):
    """() -> (P, H). Owns what its encoder owns."""

    def __init__(self, encoder: Cell) -> None:
        super().__init__()
        self.mindpet_delta_ptuning = encoder

    def construct(self) -> Tensor:
        return self.mindpet_delta_ptuning()


def attach(net: Cell, config: PtuningConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Put the encoded prompt before the embedded row. Returns the names of the encoder's parameters. Raises TargetError."""
    require_hidden(sites)
    encoder = (
        MlpEncoder(config.tokens, sites.hidden, config.middle, seed)
        if config.encoder == "mlp"
        else LstmEncoder(config.tokens, sites.hidden, config.middle, config.dropout, seed)
    )
    return add_prompt(net, sites, config.tokens, PtuningCell(encoder))


METHOD = Method(
    name="ptuning",
    config=PtuningConfig,
    default_lr=1e-3,
    attach=attach,
    table=PROMPT_TABLE,
    why_no_sum=added_tokens,
    switch=switch_prompt,
    used_as=lambda config: "prompt",
    peft=ENCODER_ALONE,
    tokens=lambda config: int(config.tokens),
    identity=False,
)
