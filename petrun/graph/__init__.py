"""What petrun does to a net: find sites, swap cells, freeze parameters; and MindPet's interface to the last of these."""

from petrun.graph.ckpt_util import TrainableParamsCheckPoint
from petrun.graph.freeze_utils import freeze_delta, freeze_from_config, freeze_modules

__all__ = ["TrainableParamsCheckPoint", "freeze_delta", "freeze_from_config", "freeze_modules"]
