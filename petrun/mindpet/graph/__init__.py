"""MindPet's interface to frozen parameters and to checkpoints of what trains."""

from petrun.mindpet.graph.ckpt_util import TrainableParamsCheckPoint
from petrun.mindpet.graph.freeze_utils import freeze_delta, freeze_from_config, freeze_modules

__all__ = ["TrainableParamsCheckPoint", "freeze_delta", "freeze_from_config", "freeze_modules"]
