"""MindPet's checkpoint callback under mindspore.train.Model: what it saves, how it names, keeps and checks files."""

import os
import time

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import CheckpointConfig, Model, ModelCheckpoint, Tensor, load_checkpoint, nn, ops

from petrun.checkpoint.delta import read_delta
from petrun.delta import LoRADense
from petrun.errors import DeltaError, TrainingError
from petrun.graph import TrainableParamsCheckPoint, freeze_delta
from petrun.interop.mindpet.reading import from_mindpet
from petrun.mindpet.utils.exceptions import AbsolutePathError, LinkPathError

OWNED = {"query.mindpet_delta_lora_a", "query.mindpet_delta_lora_b", "head.weight", "head.bias"}


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.query = LoRADense(4, 4, 2, 4)
        self.head = nn.Dense(4, 3)

    def construct(self, x):
        return self.head(ops.relu(self.query(x)))


def rows(batches=3):
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=4).astype(np.float32), np.int32(i % 3)) for i in range(2 * batches)]
    return ds.GeneratorDataset(data, ["x", "y"], shuffle=False).batch(2)


def train(callback, net=None, epochs=1, optimizer=nn.Adam, **settings):
    net = net or Net()
    freeze_delta(net, "lora", exclude=["head.*"])
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    model = Model(net, loss, optimizer(net.trainable_params(), 0.1), **settings)
    model.train(epochs, rows(), callbacks=[callback], dataset_sink_mode=False)
    return net


def config(**settings):
    return CheckpointConfig(**{"save_checkpoint_steps": 1, "keep_checkpoint_max": 5, **settings})


def saved(folder, ending=".ckpt"):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ending)


def arrays(path, **settings):
    return {name: p.asnumpy() for name, p in load_checkpoint(str(path), **settings).items()}


@pytest.mark.parametrize("optimizer", [nn.Adam, nn.Momentum])
def test_what_trains_is_saved_and_nothing_else(tmp_path, optimizer):
    """D12: MindPet saves the optimizer's slots as well, three times the size."""
    make = (lambda params, rate: nn.Momentum(params, rate, 0.9)) if optimizer is nn.Momentum else optimizer
    net = train(TrainableParamsCheckPoint(str(tmp_path), config=config()), optimizer=make)
    assert saved(tmp_path) == ["DELTA_CKP-1_1.ckpt", "DELTA_CKP-1_2.ckpt", "DELTA_CKP-1_3.ckpt"]
    values = arrays(tmp_path / "DELTA_CKP-1_3.ckpt")
    assert set(values) == OWNED
    for name, p in net.parameters_and_names():
        if name in OWNED:
            np.testing.assert_array_equal(values[name], p.asnumpy())
    assert np.any(values["head.bias"] != arrays(tmp_path / "DELTA_CKP-1_1.ckpt")["head.bias"])


def test_a_loss_scale_is_not_saved(tmp_path):
    net = Net()
    freeze_delta(net, "lora", exclude=["head.*"])
    loss = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    cell = nn.TrainOneStepWithLossScaleCell(loss, nn.Adam(net.trainable_params()), Tensor(4.0, ms.float32))
    assert len(cell.trainable_params()) > len(OWNED)
    entries = TrainableParamsCheckPoint(str(tmp_path)).trans_network(cell)
    assert {entry["name"] for entry in entries} == OWNED


def test_what_trains_in_a_network_that_is_named(tmp_path):
    net = Net()
    train(TrainableParamsCheckPoint(str(tmp_path), "P", config(saved_network=net.query)), net)
    assert {name.rpartition(".")[2] for name in arrays(tmp_path / "P-1_3.ckpt")} == {
        "mindpet_delta_lora_a",
        "mindpet_delta_lora_b",
    }


def test_names_follow_epoch_and_step_and_arguments_mindpets_order(tmp_path):
    callback = TrainableParamsCheckPoint(str(tmp_path), "delta", config(save_checkpoint_steps=2))
    assert isinstance(callback, ModelCheckpoint)
    train(callback, epochs=2)
    # The sixth step is the last, and the last is saved in any case.
    assert saved(tmp_path) == ["delta-1_2.ckpt", "delta-2_1.ckpt", "delta-2_3.ckpt"]
    assert callback.latest_ckpt_file_name == str(tmp_path / "delta-2_3.ckpt")


def test_a_second_run_does_not_overwrite_the_first(tmp_path):
    for _ in range(2):
        train(TrainableParamsCheckPoint(str(tmp_path), config=config(save_checkpoint_steps=3)))
    assert saved(tmp_path) == ["DELTA_CKP-1_3.ckpt", "DELTA_CKP_1-1_3.ckpt"]


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_are_kept(tmp_path, keep):
    train(TrainableParamsCheckPoint(str(tmp_path), config=config(keep_checkpoint_max=keep)), epochs=2)
    # Files of one second are of one age to the file system.
    assert len(saved(tmp_path)) == keep and "DELTA_CKP-2_3.ckpt" in saved(tmp_path)


def test_one_is_kept_of_some_minutes(tmp_path):
    settings = {"keep_checkpoint_max": None, "keep_checkpoint_per_n_minutes": 2}
    callback = TrainableParamsCheckPoint(str(tmp_path), config=config(**settings))
    train(callback, epochs=2)
    # The first of these minutes, and the one written after they were looked through.
    assert saved(tmp_path) == ["DELTA_CKP-1_1.ckpt", "DELTA_CKP-2_3.ckpt"]
    old = tmp_path / "DELTA_CKP-1_1.ckpt"
    os.utime(old, (time.time() - 600, time.time() - 600))
    callback._manager.update_ckpoint_filelist(str(tmp_path), "DELTA_CKP")
    callback._cur_time_for_keep = time.time()
    callback._set_per_minute()
    assert saved(tmp_path) == ["DELTA_CKP-1_1.ckpt", "DELTA_CKP-2_3.ckpt"]


def test_epoch_and_step_are_appended(tmp_path):
    info = ["epoch_num", "step_num", {"rank": 2}]
    train(TrainableParamsCheckPoint(str(tmp_path), config=config(append_info=info)), epochs=2)
    values = arrays(tmp_path / "DELTA_CKP-2_3.ckpt")
    assert set(values) == OWNED | {"epoch_num", "step_num", "rank"}
    assert (values["epoch_num"], values["step_num"], values["rank"]) == (2, 6, 2)


def test_safetensors_are_written_where_asked_for(tmp_path):
    """D13: MindPet ignores the configuration's format."""
    train(TrainableParamsCheckPoint(str(tmp_path), config=config(format="safetensors", keep_checkpoint_max=2)))
    assert saved(tmp_path) == [] and saved(tmp_path, ".safetensors") == [
        "DELTA_CKP-1_2.safetensors",
        "DELTA_CKP-1_3.safetensors",
    ]
    assert set(arrays(tmp_path / "DELTA_CKP-1_3.safetensors", format="safetensors")) == OWNED


def test_a_checksum_is_written_where_asked_for(tmp_path):
    """D13: MindPet ignores crc_check."""
    train(TrainableParamsCheckPoint(str(tmp_path), config=config(crc_check=True)))
    path = tmp_path / "DELTA_CKP-1_3.ckpt"
    assert path.read_bytes()[-17:-10] == b"crc_num"
    assert set(arrays(path, crc_check=True)) == OWNED
    damaged = bytearray(path.read_bytes())
    # In the last tensor's bytes, right before the mark.
    damaged[-20] ^= 1
    path.chmod(0o600)
    path.write_bytes(damaged)
    with pytest.raises(DeltaError):
        read_delta(path)


def test_encryption_and_saving_in_the_background(tmp_path):
    train(TrainableParamsCheckPoint(str(tmp_path), "secret", config(enc_key=b"0123456789abcdef")))
    assert set(arrays(tmp_path / "secret-1_3.ckpt", dec_key=b"0123456789abcdef")) == OWNED
    train(TrainableParamsCheckPoint(str(tmp_path), "later", config(async_save=True)))
    assert set(arrays(tmp_path / "later-1_3.ckpt")) == OWNED


@pytest.mark.parametrize(
    "settings", [{}, {"crc_check": True}, {"format": "safetensors"}, {"append_info": ["step_num"]}]
)
def test_petrun_reads_it_as_a_mindpet_checkpoint(tmp_path, settings):
    net = train(TrainableParamsCheckPoint(str(tmp_path), config=config(**settings)))
    delta = from_mindpet(read_delta(tmp_path / f"DELTA_CKP-1_3.{settings.get('format', 'ckpt')}"), alpha=4.0)
    assert delta.algo == "lora" and delta.config["rank"] == 2 and delta.config["target"] == ["query"]
    assert set(delta.shapes) == OWNED
    values = {name: p.asnumpy() for name, p in net.parameters_and_names()}
    for name in OWNED:
        np.testing.assert_array_equal(delta.tensors[name], values[name])


def test_a_parallel_layout_is_merged(tmp_path):
    callback = TrainableParamsCheckPoint(str(tmp_path), config=config())
    net = Net()
    net.parameter_layout_dict["query.weight"] = [0, 0]
    entries = callback.trans_network(net)
    assert [entry["name"] for entry in entries] == [p.name for p in net.trainable_params()]
    for entry, p in zip(entries, net.trainable_params(), strict=True):
        assert isinstance(entry["data"], Tensor)
        np.testing.assert_array_equal(entry["data"].asnumpy(), p.asnumpy())


def test_nothing_to_save_is_an_error(tmp_path):
    net = Net()
    for p in net.get_parameters():
        p.requires_grad = False
    with pytest.raises(TrainingError, match="nothing trains"):
        TrainableParamsCheckPoint(str(tmp_path)).trans_network(net)


class Skips(TrainableParamsCheckPoint):
    def _check_save_ckpt(self, cb_params, force_to_save):
        return False


class NoBatches(TrainableParamsCheckPoint):
    def step_end(self, run_context):
        run_context.original_args().batch_num = -1
        super().step_end(run_context)


def test_its_parts_can_be_replaced(tmp_path):
    train(Skips(str(tmp_path), config=config()))
    assert saved(tmp_path) == []
    with pytest.raises(ValueError, match="batch_num must be positive"):
        train(NoBatches(str(tmp_path), config=config()))


def test_documented_exceptions(tmp_path):
    for missing in (None, ""):
        with pytest.raises(ValueError, match="directory is required"):
            TrainableParamsCheckPoint(missing)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(LinkPathError, match="is a link"):
        TrainableParamsCheckPoint(str(tmp_path / "link"))
    with pytest.raises(AbsolutePathError, match="not an absolute path"):
        TrainableParamsCheckPoint("../")
    with pytest.raises(TypeError, match="CheckpointConfig"):
        TrainableParamsCheckPoint(str(tmp_path), config={})
    for wrong in (0, "prefix/name"):
        with pytest.raises(ValueError, match="prefix"):
            TrainableParamsCheckPoint(str(tmp_path), prefix=wrong)
    with pytest.raises(ValueError, match="remove_redundancy"):
        TrainableParamsCheckPoint(str(tmp_path), config=config(remove_redundancy=True))
