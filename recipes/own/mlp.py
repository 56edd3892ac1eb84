"""A model of your own for petrun: any function that returns an nn.Cell. Used by mlp.yaml as `mlp.py:build`."""

from mindspore import nn, ops


class Mlp(nn.Cell):
    """Points (B, 2) float32 -> logits (B, classes) float32."""

    # The arrays of the .npz file that construct takes, in order; without this, all of them but `label`.
    inputs = ("x",)

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Dense(2, width)
        self.hidden = nn.CellList([nn.Dense(width, width) for _ in range(2)])
        self.last = nn.Dense(width, classes)

    def construct(self, x):
        x = ops.relu(self.first(x))
        for layer in self.hidden:
            x = ops.relu(layer(x))
        return self.last(x)


def build(width: int = 64, classes: int = 3) -> nn.Cell:
    """Called with `model.kwargs` of the recipe. petrun seeds MindSpore first, so the start is the same every time."""
    return Mlp(width, classes)
