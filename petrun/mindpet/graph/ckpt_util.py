"""MindPet's callback: while `mindspore.train.Model` trains, save the parameters that train, and nothing else.

Files are called `<prefix>-<epoch>_<step in the epoch>.ckpt` (or .safetensors) and are what `petrun eval --delta` reads as MindPet's
checkpoints.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Protocol

from mindspore import CheckpointConfig, ModelCheckpoint, Tensor, nn, save_checkpoint
from mindspore.experimental.optim import Optimizer
from mindspore.train.serialization import _get_merged_param_data

from petrun.errors import TrainingError
from petrun.mindpet.utils.exceptions import AbsolutePathError, LinkPathError
from petrun.typing import Cell, Parameter


class CallbackParams(Protocol):
    """The part of MindSpore's callback parameters that is read here."""

    cur_step_num: int
    cur_epoch_num: int
    batch_num: int
    train_network: Cell


def trained_parameters(network: Cell) -> list[Parameter]:
    """Return the trained parameters of a net or of a training cell around one, without the optimizer's state and the loss scale."""
    parameters = list(network.trainable_params())
    optimizers = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.Optimizer | Optimizer)]
    if not optimizers:
        return parameters
    updated = {id(parameter) for optimizer in optimizers for parameter in optimizer.parameters}
    return [parameter for parameter in parameters if id(parameter) in updated]


class TrainableParamsCheckPoint(ModelCheckpoint):
    """ModelCheckpoint for what trains, MindPet's signature.

    Args: directory: an absolute path that is not a link; prefix: of the file names; config: MindSpore's CheckpointConfig, whose format,
        crc_check, append_info, encryption, asynchronous saving and retention hold. With saved_network, what trains in that network.
    Raises: ValueError: no directory, a wrong prefix, remove_redundancy. AbsolutePathError, LinkPathError: a wrong directory.
        TypeError: config is no CheckpointConfig. TrainingError, while training: nothing trains.
    """

    def __init__(self, directory: str, prefix: str = "DELTA_CKP", config: CheckpointConfig | None = None) -> None:
        if directory is None or directory == "":
            raise ValueError("TrainableParamsCheckPoint: directory is required")
        if Path(os.path.abspath(directory)).is_symlink():
            raise LinkPathError(f"TrainableParamsCheckPoint: directory {directory} is a link")
        if not os.path.isabs(directory):
            raise AbsolutePathError(f"TrainableParamsCheckPoint: directory {directory} is not an absolute path")
        super().__init__(prefix, directory, config)
        if self._config.remove_redundancy:
            raise ValueError(
                "TrainableParamsCheckPoint: remove_redundancy is for whole models: what trains is small, save it on every rank"
            )
        self._cur_time_for_keep = time.time()

    def trans_network(self, network: Cell) -> list[dict[str, str | Tensor]]:
        """Return the entries of a checkpoint: name and data of every parameter that trains, with the shards of a parallel run merged."""
        network.init_parameters_data()
        layouts = network.parameter_layout_dict
        saved = []
        for parameter in trained_parameters(network):
            data = Tensor(parameter)
            if parameter.name in layouts:
                data = _get_merged_param_data(network, layouts, parameter.name, data, self._config.integrated_save)
            saved.append({"name": parameter.name, "data": data})
        if not saved:
            raise TrainingError(
                "nothing trains, so there is nothing to save", hint="Look at what freeze_delta or freeze_modules left."
            )
        return saved

    def set_train_info(self, cb_params: CallbackParams, cur_step_num: int) -> None:
        """Remove files beyond what the configuration keeps, and note epoch and step."""
        if self._config.keep_checkpoint_max and 0 < self._config.keep_checkpoint_max <= self._manager.ckpoint_num:
            self._manager.remove_oldest_ckpoint_file()
        elif self._config.keep_checkpoint_per_n_minutes and self._config.keep_checkpoint_per_n_minutes > 0:
            self._cur_time_for_keep = time.time()
            self._set_per_minute()
        self._last_time_for_keep = time.time()
        self._last_triggered_step = cur_step_num
        self._append_dict_content(cb_params.cur_epoch_num, cur_step_num)

    def _set_per_minute(self) -> None:
        """Of the files of the last n minutes, keep one."""
        minutes = self._config.keep_checkpoint_per_n_minutes
        if self._cur_time_for_keep - self._last_time_for_keep < minutes * 60:
            self._manager.keep_one_ckpoint_per_minutes(minutes, self._cur_time_for_keep)

    def _save_ckpt(self, cb_params: CallbackParams, force_to_save: bool = False) -> None:
        """MindSpore calls this at the end of every step and of the training."""
        step = cb_params.cur_step_num
        if step == self._last_triggered_step:
            return
        if self._need_flush_from_cache:
            self._flush_from_cache(cb_params)
        if not self._check_save_ckpt(cb_params, force_to_save):
            return
        if cb_params.batch_num <= 0:
            raise ValueError(f"TrainableParamsCheckPoint: batch_num must be positive, got {cb_params.batch_num}")
        network = self._config.saved_network if self._config.saved_network is not None else cb_params.train_network
        entries = self.trans_network(network)
        name = f"{self._prefix}-{cb_params.cur_epoch_num}_{(step - 1) % cb_params.batch_num + 1}.{self._config.format}"
        self._manager.update_ckpoint_filelist(self._directory, self._prefix)
        self.set_train_info(cb_params, step)
        path = os.path.join(self._directory, name)
        save_checkpoint(
            entries,
            path,
            integrated_save=self._config.integrated_save,
            async_save=self._config.async_save,
            append_dict=self._append_dict,
            enc_key=self._config.enc_key,
            enc_mode=self._config.enc_mode,
            crc_check=self._config.crc_check,
            format=self._config.format,
        )
        self._latest_ckpt_file_name = path
