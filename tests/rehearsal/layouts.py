"""The jobs whose numbers are proved: each family, method and layout that docs/parallel.md names, as small as its layout allows.

    python -m tests.rehearsal.layouts FOLDER NAME...

computes the named cases in FOLDER, or computes them again from what lies there, prints their differences, and keeps the losses of those
that agree in golden_losses.json. A case that is not there yet was not computed.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from petrun.rehearsal.comparison import computed_report, partings
from petrun.rehearsal.compute import PRECISIONS, compute_steps
from tests.rehearsal.computed import compiled_job, stored_job

GOLDEN = Path(__file__).with_name("golden_losses.json")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One job."""

    family: str
    layout: str
    flags: dict = field(default_factory=dict)
    base: dict = field(default_factory=dict)

    @property
    def dtype(self):
        return self.flags.get("model.dtype", "float32")


FULL = {"algo": "full"}
HALF = {"model.dtype": "float16"}
WIDE_HEADS = {"head_dim": 16}
"""Wide enough for the operator that computes attention in one piece."""
ONE = {"num_hidden_layers": 1}
ONE_OF_GPT2 = {"n_layer": 1}
ONE_OF_T5 = {"num_layers": 1, "num_decoder_layers": 1}
TIED = {"tie_word_embeddings": True}
ALL = {"delta.target": ("all-linear",)}
DROPOUT = {"delta.dropout": 0.1}
DROPPED = {"attention_dropout": 0.1}
EVERY_DROPOUT = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1}
GPT2_DROPOUT = {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
ADAPTER = {"algo": "adapter", "delta.bottleneck": 12}
IA3 = {"algo": "ia3"}
LOHA = {"algo": "loha", "delta.rank": 2, "delta.target": ("all-linear",)}
PREFIX = {"algo": "prefix", "delta.tokens": 8, "delta.middle": 12}
FOUR_ROWS = {"train.batch_size": 4}

CASES = {
    # Data parallel: petrun's own sums.
    "llama-lora-dp8": Case(family="llama", layout="dp=8", flags={"train.batch_size": 1}, base=ONE),
    "bert-full-dp2": Case(family="bert", layout="dp=2", flags=FULL, base=ONE),
    "gpt2-lora-dp2-accumulate": Case(family="gpt2", layout="dp=2", flags={"train.accumulate": 2}, base=ONE_OF_GPT2),
    # Tensor parallel.
    "llama-lora-tp4": Case(family="llama", layout="dp=2,tp=4", flags=ALL, base=ONE),
    "llama-full-tp2-tied": Case(family="llama", layout="dp=1,tp=2", flags=FULL, base={**ONE, **TIED}),
    "llama-full-dp2-tp2": Case(family="llama", layout="dp=2,tp=2", flags=FULL, base=ONE),
    "llama-lora-tp2-bfloat16": Case(family="llama", layout="dp=1,tp=2", flags={"model.dtype": "bfloat16"}, base={**ONE, **WIDE_HEADS}),
    "bert-full-tp2": Case(family="bert", layout="dp=1,tp=2", flags=FULL, base=ONE),
    "bert-lora-dp2-tp2": Case(family="bert", layout="dp=2,tp=2", flags=ALL, base=ONE),
    "gpt2-full-tp2": Case(family="gpt2", layout="dp=1,tp=2", flags=FULL, base=ONE_OF_GPT2),
    "gpt2-lora-dp2-tp2": Case(family="gpt2", layout="dp=2,tp=2", flags=ALL, base=ONE_OF_GPT2),
    "llama-adapter-tp2": Case(family="llama", layout="dp=1,tp=2", flags=ADAPTER),
    "llama-ia3-tp2": Case(family="llama", layout="dp=1,tp=2", flags=IA3),
    "llama-loha-dp2-tp2": Case(family="llama", layout="dp=2,tp=2", flags=LOHA, base=ONE),
    "llama-prefix-tp2": Case(family="llama", layout="dp=1,tp=2", flags=PREFIX),
    "bert-bitfit-tp2": Case(family="bert", layout="dp=1,tp=2", flags={"algo": "bitfit"}, base=ONE),
    "llama-lora-tp2-accumulate": Case(family="llama", layout="dp=1,tp=2", flags={"train.accumulate": 2}),
    "llama-lora-tp2-recompute-full": Case(family="llama", layout="dp=1,tp=2", flags={"parallel.recompute": "full"}),
    "llama-lora-tp2-recompute-select": Case(family="llama", layout="dp=1,tp=2", flags={"parallel.recompute": "select"}, base=ONE),
    "llama-full-tp2-offload": Case(family="llama", layout="dp=1,tp=2", flags={**FULL, "parallel.offload": "optimizer"}),
    "llama-lora-dp2-tp2-dropout": Case(
        family="llama", layout="dp=2,tp=2", flags={**ALL, **DROPOUT}, base=DROPPED
    ),
    "llama-lora-tp2-float16": Case(family="llama", layout="dp=1,tp=2", flags=HALF, base=WIDE_HEADS),
    "llama-lora-tp2-float16-dropout": Case(
        family="llama", layout="dp=1,tp=2", flags={**HALF, **DROPOUT}, base={**ONE, **WIDE_HEADS, **DROPPED}
    ),
    "llama-full-tp2-recompute-full": Case(family="llama", layout="dp=1,tp=2", flags={**FULL, "parallel.recompute": "full"}, base=DROPPED),
    "bert-full-tp2-dropout": Case(family="bert", layout="dp=1,tp=2", flags=FULL, base={**ONE, **EVERY_DROPOUT}),
    "gpt2-lora-tp2-dropout": Case(
        family="gpt2", layout="dp=1,tp=2", flags={**ALL, **DROPOUT}, base={**ONE_OF_GPT2, **GPT2_DROPOUT}
    ),
    "gpt2-lora-tp2-float16": Case(family="gpt2", layout="dp=1,tp=2", flags=HALF, base={**ONE_OF_GPT2, "n_head": 2}),
    "bert-full-tp2-float16": Case(family="bert", layout="dp=1,tp=2", flags={**FULL, **HALF}, base={**ONE, "num_attention_heads": 2}),
    "bert-adapter-tp2": Case(family="bert", layout="dp=1,tp=2", flags=ADAPTER, base=ONE),
    "bert-ia3-tp2": Case(family="bert", layout="dp=1,tp=2", flags=IA3, base=ONE),
    "bert-prefix-tp2": Case(family="bert", layout="dp=1,tp=2", flags=PREFIX, base=ONE),
    "gpt2-adapter-tp2": Case(family="gpt2", layout="dp=1,tp=2", flags=ADAPTER, base=ONE_OF_GPT2),
    "gpt2-ia3-tp2": Case(family="gpt2", layout="dp=1,tp=2", flags=IA3, base=ONE_OF_GPT2),
    "gpt2-prefix-tp2": Case(family="gpt2", layout="dp=1,tp=2", flags=PREFIX, base=ONE_OF_GPT2),
    "roberta-full-tp2": Case(family="roberta", layout="dp=1,tp=2", flags=FULL, base=ONE),
    "opt-full-tp2": Case(family="opt", layout="dp=1,tp=2", flags=FULL, base=ONE),
    "bloom-full-tp2": Case(family="bloom", layout="dp=1,tp=2", flags=FULL, base=ONE_OF_GPT2),
    "t5-full-tp2": Case(family="t5", layout="dp=1,tp=2", flags=FULL, base=ONE_OF_T5),
    "t5-lora-dp2-tp2": Case(family="t5", layout="dp=2,tp=2", flags=ALL, base={**ONE_OF_T5, "dropout_rate": 0.1}),
    "glm4-full-tp2": Case(family="glm", layout="dp=1,tp=2", flags=FULL, base=ONE),
    # Split tokens.
    "llama-lora-tp2-sequence": Case(family="llama", layout="dp=1,tp=2,sequence=true", flags=ALL, base=ONE),
    "llama-full-dp2-tp2-sequence": Case(family="llama", layout="dp=2,tp=2,sequence=true", flags=FULL, base=ONE),
    # Split state.
    "llama-full-dp2-tp2-zero1": Case(family="llama", layout="dp=2,tp=2,zero=1", flags=FULL, base=ONE),
    "llama-full-dp2-zero1-accumulate": Case(
        family="llama", layout="dp=2,zero=1", flags={**FULL, "train.accumulate": 2}, base=ONE
    ),
    "llama-lora-dp2-tp2-zero2": Case(family="llama", layout="dp=2,tp=2,zero=2", flags=ALL, base=ONE),
    "llama-full-dp2-tp2-zero3": Case(family="llama", layout="dp=2,tp=2,zero=3", flags=FULL),
    "llama-full-dp2-zero3-float16": Case(family="llama", layout="dp=2,zero=3", flags={**FULL, **HALF}, base={**ONE, **WIDE_HEADS}),
    "bert-full-dp2-zero1": Case(family="bert", layout="dp=2,zero=1", flags=FULL, base=ONE),
    "gpt2-full-dp2-zero3": Case(family="gpt2", layout="dp=2,zero=3", flags=FULL, base=ONE_OF_GPT2),
    # Stages.
    "llama-lora-dp2-tp2-pp2": Case(
        family="llama", layout="dp=2,tp=2,pp=2,micro_batches=4", flags={**ALL, **FOUR_ROWS}
    ),
    "llama-lora-tp2-pp2-tied": Case(family="llama", layout="dp=1,tp=2,pp=2", base=TIED),
    "llama-full-pp2-tied": Case(family="llama", layout="dp=1,pp=2,micro_batches=2", flags=FULL, base=TIED),
    "llama-full-dp2-pp2-zero1-tied": Case(family="llama", layout="dp=2,pp=2,zero=1", flags=FULL, base=TIED),
    "bert-lora-dp2-pp2": Case(family="bert", layout="dp=2,pp=2", flags=ALL),
    "llama-lora-pp2-float16": Case(family="llama", layout="dp=1,pp=2", flags=HALF, base=WIDE_HEADS),
    "llama-full-tp2-pp2-tied": Case(family="llama", layout="dp=1,tp=2,pp=2", flags=FULL, base=TIED),
    "llama-lora-dp2-tp2-pp2-dropout": Case(
        family="llama", layout="dp=2,tp=2,pp=2", flags={**ALL, **DROPOUT, **FOUR_ROWS}, base=DROPPED
    ),
    "bert-full-pp2-dropout": Case(family="bert", layout="dp=1,pp=2", flags=FULL, base=EVERY_DROPOUT),
    "gpt2-full-tp2-pp2": Case(family="gpt2", layout="dp=1,tp=2,pp=2", flags=FULL),
    "llama-adapter-pp2": Case(family="llama", layout="dp=1,pp=2", flags=ADAPTER),
    "llama-ia3-pp2": Case(family="llama", layout="dp=1,pp=2", flags=IA3),
    "llama-lora-pp2-recompute-full": Case(family="llama", layout="dp=1,pp=2", flags={"parallel.recompute": "full"}),
    "llama-full-tp2-pp2-offload": Case(family="llama", layout="dp=1,tp=2,pp=2", flags={**FULL, "parallel.offload": "optimizer"}),
}  # fmt: skip


def computed_case(name, folder):
    """Compile and compute one case. Returns (its steps, what parts)."""
    case = CASES[name]
    if not (folder / "job" / "one_rank.npz").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        job = compiled_job(folder, case.family, case.layout, case.flags, case.base)
    else:
        job = stored_job(folder)
    run, ranks, layout = job
    began = time.perf_counter()
    steps = compute_steps(ranks, layout, run, case.dtype)
    print(f"{name}\n{computed_report(layout, case.dtype, steps, time.perf_counter() - began)}", flush=True)
    return steps, partings(steps, PRECISIONS[case.dtype].tolerance)


def keep(name, losses):
    """Write the losses of a case into the golden file, in the table's order."""
    golden = {**json.loads(GOLDEN.read_text()), name: losses}
    lines = (f"  {json.dumps(known)}: {json.dumps(golden[known])}" for known in CASES if known in golden)
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(folder, *names):
    for name in names or CASES:
        steps, found = computed_case(name, Path(folder) / name)
        for parting in found:
            print(f"  {parting}", flush=True)
        losses = [round(step.loss, 6) for step in steps]
        (Path(folder) / f"{name}.json").write_text(json.dumps({"losses": losses, "parts": len(found)}))
        if not found:
            keep(name, losses)


if __name__ == "__main__":
    main(*sys.argv[1:])
