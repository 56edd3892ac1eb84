"""Write train.npz and eval.npz: points on three interleaved spirals, arrays `x` (n, 2) float32 and `label` (n,) int32."""

import numpy as np


def spirals(count: int, seed: int, classes: int = 3) -> dict[str, np.ndarray]:
    """`count` noisy points, classes in equal parts."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % classes
    radius = np.sqrt(rng.uniform(0.02, 1.0, count))
    angle = 4.0 * radius + 2 * np.pi * label / classes + rng.normal(0, 0.12, count)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return {"x": x.astype(np.float32), "label": label.astype(np.int32)}


if __name__ == "__main__":
    np.savez("train.npz", **spirals(3000, seed=0))
    np.savez("eval.npz", **spirals(600, seed=1))
    print("wrote train.npz and eval.npz")
