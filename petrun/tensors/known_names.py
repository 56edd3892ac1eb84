"""Names that say what a tensor is: the prefix of a delta's own tensors, and the optimizer's state beside the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Container, Sequence
from fnmatch import fnmatchcase

DELTA_PREFIX = "mindpet_delta_"
"""Begins the last part of a parameter's name where a delta owns it: layers.0.attn.q.mindpet_delta_lora_a."""
ADAMW_STATE = ("adam_m.*", "adam_v.*", "adam_step")
"""Patterns of the state of petrun's AdamW. The record of every optimizer in petrun.train.optimizers takes its patterns from here."""
OPTIMIZER_STATE = (
    *ADAMW_STATE,
    # Of the compiled step, which sums gradients and scales the loss.
    "grad_sum.*", "clean_steps", "denominator", "part_scale", "tied_share",
    # Settings of petrun's optimizer and schedule, which a graph takes as inputs.
    "optim.beta1", "optim.beta2", "optim.log_beta1", "optim.log_beta2", "optim.eps", "optim.weight_decay", "optim.clip",
    "optim.peak_rate", "optim.last_rate", "optim.warmup", "optim.falling_steps", "optim.falling_height",
    # Of MindSpore's optimizers and training cells.
    "moment1.*", "moment2.*", "moments.*", "moment.*", "accum.*", "vhat.*", "stat.*", "accu_grads.*",
    "learning_rate", "global_step", "beta1_power", "beta2_power", "momentum", "epoch_num", "step_num", "scale_sense",
    "loss_scale", "current_iterator_step", "last_overflow_iterator_step", "opt_step",
)  # fmt: skip
"""Patterns of all that a training job saves in a checkpoint beside the parameters."""


def is_spare(name: str, patterns: Sequence[str], *known: Container[str]) -> bool:
    """Return whether a tensor is optimizer state that needs no layout. A cell may have such a name itself (`accum.weight`): the name
    after the prefix must be a parameter, one of `known`.
    """
    _, dot, parameter = name.partition(".")
    there = not dot or name in patterns or any(parameter in each for each in known)
    return there and any(fnmatchcase(name, pattern) for pattern in patterns)
