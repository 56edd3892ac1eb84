"""Set device, execution mode and precision. No other file touches MindSpore's global context."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mindspore as ms
from mindspore import communication

from petrun.errors import SetupError
from petrun.graph.compilations import show_compiling
from petrun.mindspore_messages import first_line
from petrun.parallel.layout import Layout


@dataclass(frozen=True)
class Device:
    """The device and the precision of a run."""

    target: Literal["cpu", "ascend"]
    compute_dtype: str
    """dtype of the frozen base's arithmetic: "float32", "float16" or "bfloat16"."""
    loss_scale: float | None
    """Initial dynamic loss scale; None where the dtype's range needs none."""


def setup(
    device: str | None, dtype: str | None = None, loss_scale: float | None = None, pynative: bool = False
) -> Device:
    """Set target and mode for this process. `device` None: ascend where a card is found, else cpu.

    Raises SetupError when the device is asked for and not there, or has no kernels for the dtype.
    """
    target = find_target(device)
    if target == "cpu" and dtype == "bfloat16":
        raise SetupError(
            "model.dtype bfloat16: MindSpore has no bfloat16 matrix product for the CPU",
            hint="A bfloat16 base is computed in float32 there by default; leave model.dtype out.",
        )
    ms.set_context(mode=ms.PYNATIVE_MODE if pynative else ms.GRAPH_MODE)
    name = "Ascend" if target == "ascend" else "CPU"
    if ms.get_context("device_target") != name:
        # Setting it again is an error once a kernel has run, even to the same device.
        ms.set_device(name)
    show_compiling()
    return describe(target, dtype, loss_scale)


def describe(target: Literal["cpu", "ascend"], dtype: str | None = None, loss_scale: float | None = None) -> Device:
    """Return a device with its default precision; nothing is set, and it need not be here."""
    compute = dtype or ("bfloat16" if target == "ascend" else "float32")
    scale = loss_scale if loss_scale is not None else (65536.0 if compute == "float16" else None)
    return Device(target, compute, scale)


def find_target(device: str | None) -> Literal["cpu", "ascend"]:
    """Return the device that a run computes on; nothing is set. `device` None: ascend where a card is found, else cpu.

    Raises SetupError when the device is asked for and not there.
    """
    if device == "cpu":
        return "cpu"
    found = _has_ascend()
    if device == "ascend" and not found:
        raise SetupError(
            "--device ascend: MindSpore finds no Ascend card here",
            hint="Install CANN and MindSpore's Ascend runtime (see Dockerfile.ascend), or use --device cpu.",
        )
    return "ascend" if found else "cpu"


def cards_here() -> int | None:
    """Return the number of Ascend cards that this process may see; None where MindSpore only compiles for them."""
    return None if os.environ.get("MS_SIMULATION_LEVEL") else int(ms.device_context.ascend.device_count())


def peak_card_bytes() -> int | None:
    """Return the most memory that this process has taken of its card so far; None where it computes on the CPU."""
    return int(ms.runtime.max_memory_allocated()) if ms.get_context("device_target") == "Ascend" else None


def split_operators(layout: Layout, rank: int, strategy_file: Path | None = None) -> None:
    """Compile later graphs for this rank of a job whose operators have strategies (MindSpore's semi-automatic parallel).

    Every rank gives the step the rows of the whole batch; its graph takes its own rows. `strategy_file`: see `write_strategy_to`.
    """
    settings: dict[str, object] = {
        "parallel_mode": "semi_auto_parallel",
        "device_num": layout.world,
        "global_rank": rank,
        "pipeline_stages": layout.pp,
        "dataset_strategy": "full_batch",
        "enable_parallel_optimizer": layout.zero > 0,
    }
    if layout.zero:
        settings["parallel_optimizer_config"] = {
            "parallel_optimizer_threshold": 0,
            "optimizer_weight_shard_size": layout.dp,
            "optimizer_level": f"level{layout.zero}",
        }
    ms.reset_auto_parallel_context()
    ms.set_auto_parallel_context(**settings)
    write_strategy_to(strategy_file)


def stage_here(layout: Layout) -> int:
    """Return the pipeline stage for which graphs are compiled; see `split_operators`."""
    return layout.coordinates(int(ms.get_auto_parallel_context("global_rank")))[0]


def write_strategy_to(file: Path | None) -> None:
    """Have MindSpore write the sharding of every parameter, frozen ones too, of each graph that it compiles from now on. None: nowhere."""
    path = str(file) if file is not None else ""
    ms.set_auto_parallel_context(strategy_ckpt_config={"save_file": path, "only_trainable_params": False})


@contextmanager
def undivided() -> Iterator[None]:
    """A context manager: graphs compiled and run in its block are not split. A split graph must not hold a collective of its own."""
    before = {name: ms.get_auto_parallel_context(name) for name in ("parallel_mode", "dataset_strategy")}
    ms.set_auto_parallel_context(parallel_mode="stand_alone", dataset_strategy="data_parallel")
    try:
        yield
    finally:
        ms.set_auto_parallel_context(**before)


@contextmanager
def eager() -> Iterator[None]:
    """A context manager: cells called in its block run operator by operator, so that an error comes from a line of their code."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=before)


def keep_compiled(on: bool) -> None:
    """Have MindSpore write each graph that it compiles from now on into the folder of its compile cache, or load what lies there."""
    ms.set_context(enable_compile_cache=on)


def compiler_settings() -> dict[str, str]:
    """Return what MindSpore's compiler reads from its context, and which of how many ranks this process is, as text by name."""
    found = {name: repr(ms.get_context(name)) for name in _COMPILER_SETTINGS}
    found.update({name: str(ms.get_auto_parallel_context(name)) for name in _PARALLEL_SETTINGS})
    joined = communication.GlobalComm.INITED
    found["rank"] = str(communication.get_rank() if joined else 0)
    found["world"] = str(communication.get_group_size() if joined else 1)
    found["seed"] = repr(ms.get_seed())
    return found


_COMPILER_SETTINGS = (
    "mode",
    "device_target",
    "max_call_depth",
    "enable_graph_kernel",
    "graph_kernel_flags",
    "deterministic",
    "jit_syntax_level",
    "jit_config",
    "memory_optimize_level",
    "debug_level",
    "reserve_class_name_in_scope",
    "check_bprop",
)
_PARALLEL_SETTINGS = (
    "parallel_mode",
    "device_num",
    "global_rank",
    "gradients_mean",
    "gradient_fp32_sync",
    "pipeline_stages",
    "full_batch",
    "dataset_strategy",
    "enable_parallel_optimizer",
    "all_reduce_fusion_config",
    "comm_fusion",
)


def connect(how: str) -> None:
    """Initialise MindSpore's communication; on the scheduler this ends with the job.

    `how`: the start-up, for the message. Raises SetupError with the likely cause.
    """
    # On the CPU a rank waits 30 seconds for the others inside a collective by default, and a rank that compiles or saves a file may
    # take longer. The scheduler notices a lost rank by itself.
    os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", "3600")
    # Cards are linked at the first collective of a group. HCCL waits two minutes by default; another stage of a pipeline may compile
    # longer.
    os.environ.setdefault("HCCL_CONNECT_TIMEOUT", "600")
    try:
        communication.init()
    except (RuntimeError, ValueError, TypeError, ImportError) as error:
        said = first_line(str(error)) or type(error).__name__
        hint = next((hint for words, hint in _HINTS if words in str(error)), "See the logs of the other ranks as well.")
        raise SetupError(f"the ranks of the job do not come together ({how}): {said}", hint=hint) from error


# MindSpore's message has no code, so the hint is chosen by its words. They choose the hint alone: the error and its exit code are the
# same for every message.
_HINTS = (
    ("timed out node", "A rank has ended or hangs: its own log says why."),
    ("hccl", "HCCL comes with CANN: see Dockerfile.ascend; and look at the rank table with `petrun ranktable lint`."),
    ("RANK_ID", "Start-up by rank table needs RANK_TABLE_FILE and RANK_ID for every process."),
    (
        "opology",
        "Either the port is taken, or fewer ranks were started than MS_WORKER_NUM says, or they do not reach MS_SCHED_HOST.",
    ),
)


def _has_ascend() -> bool:
    """Return whether there is a card. MindSpore calls Ascend available where CANN is installed, card or not; with
    MS_SIMULATION_LEVEL set it needs none, as it only compiles."""
    try:
        ascend = ms.device_context.ascend
        return bool(ascend.is_available() and (os.environ.get("MS_SIMULATION_LEVEL") or ascend.device_count() > 0))
    except (AttributeError, RuntimeError):
        return False
