"""Which device a run gets, and in which precision."""

import mindspore as ms
import pytest

from petrun.errors import SetupError
from petrun.parallel import context


@pytest.fixture
def ascend(monkeypatch):
    """(available, cards) -> MindSpore says so."""

    def pretend(available, cards):
        def count():
            if isinstance(cards, Exception):
                raise cards
            return cards

        monkeypatch.setattr(ms.device_context.ascend, "is_available", lambda: available)
        monkeypatch.setattr(ms.device_context.ascend, "device_count", count)

    monkeypatch.delenv("MS_SIMULATION_LEVEL", raising=False)
    return pretend


def test_without_a_card_it_is_the_cpu_in_float32(ascend):
    ascend(False, 0)
    assert context.setup(None) == context.Device("cpu", "float32", None)
    with pytest.raises(SetupError, match="--device ascend: MindSpore finds no Ascend card"):
        context.setup("ascend")


@pytest.mark.parametrize("cards", [0, RuntimeError("Device Ascend not exist.")])
def test_cann_without_a_card_is_no_card(ascend, cards):
    ascend(True, cards)
    assert context.setup(None).target == "cpu"


def test_a_card_or_the_simulation_of_one(ascend, monkeypatch):
    ascend(True, 1)
    assert context._has_ascend()
    ascend(True, 0)
    assert not context._has_ascend()
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "0")
    assert context._has_ascend()
    ascend(False, 0)
    assert not context._has_ascend()


def test_precision_and_loss_scale():
    assert context.setup("cpu", "float16") == context.Device("cpu", "float16", 65536.0)
    assert context.setup("cpu", "float16", 128.0).loss_scale == 128.0
    assert context.setup("cpu", "float32", 8.0).loss_scale == 8.0
    with pytest.raises(SetupError, match="bfloat16"):
        context.setup("cpu", "bfloat16")


def test_execution_mode():
    context.setup("cpu", pynative=True)
    assert ms.get_context("mode") == ms.PYNATIVE_MODE
    context.setup("cpu")
    assert ms.get_context("mode") == ms.GRAPH_MODE


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("\n----\n- Internal Error:\n----\nConnect failed, timed out node 3\n", "its own log says why"),
        ("load libhccl_plugin.so failed", "petrun ranktable lint"),
        ("the environment variable RANK_ID is not set", "RANK_TABLE_FILE and RANK_ID"),
        ("Failed to build the cluster topology", "MS_WORKER_NUM"),
        ("something new", "See the logs of the other ranks as well."),
        ("", "See the logs of the other ranks as well."),
    ],
)
def test_the_words_of_a_failed_start_choose_the_hint_alone(monkeypatch, text, hint):
    def init():
        raise RuntimeError(text)

    monkeypatch.setattr(context.communication, "init", init)
    monkeypatch.setenv("MS_CPU_COMM_OP_TIMEOUT", "1")
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "1")
    with pytest.raises(SetupError) as caught:
        context.connect("a test")
    assert caught.value.message.startswith("the ranks of the job do not come together (a test): ")
    assert hint in caught.value.hint
    # One error for every text.
    assert type(caught.value) is SetupError and caught.value.code == SetupError("").code
