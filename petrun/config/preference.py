"""Settings of runs on preferences, the section `preference`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from petrun.config.options import OPTIM
from petrun.config.section import Section, setting


class PreferenceConfig(Section):
    loss: Literal["dpo", "ipo", "simpo", "orpo", "kto"] = setting(
        "dpo",
        "Loss on rows with a chosen and a rejected answer: dpo, ipo, simpo or orpo; with one answer and a label: kto. Default dpo.",
        "--loss",
        OPTIM,
    )
    beta: float | None = setting(
        None,
        "Weight of that loss' difference between the answers. Default: 0.1; simpo 2.",
        "--beta",
        OPTIM,
        gt=0,
    )
    gamma: float = Field(0.5, ge=0, description="simpo: margin that the difference should exceed")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="dpo: share of rows whose answers are taken to be swapped"
    )
    sft_weight: float = Field(0.0, ge=0, description="weight of the chosen answers' cross entropy, added to the loss")
    desirable_weight: float = Field(1.0, gt=0, description="kto: weight of rows whose answer is desirable")
    undesirable_weight: float = Field(1.0, gt=0, description="kto: weight of rows whose answer is not desirable")
