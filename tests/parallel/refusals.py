"""Every job that docs/parallel.md says is refused, whatever it computes on: (base, method, layout of four ranks, settings, reason)."""

SEQUENCE = "tp=2,sequence=true"
DROPPING = ["delta.dropout=0.1"]
REFUSED = [
    ("llama", "lora", "tp=2", ["delta.variant=dora"], "norms of whole rows"),
    *(("llama", "lora+r_drop", layout, DROPPING, "compares two whole distributions") for layout in ("tp=2", "pp=2", "zero=1")),
    *(("llama", "lokr", layout, [], "multiplies a layer's features in blocks") for layout in ("tp=2", "pp=2", "zero=1")),
    ("llama", "vera", "tp=2", [], "two matrices that the layers of all ranks share"),
    ("llama", "oft", "tp=2", [], "turns a layer's features in blocks"),
    ("llama", "miss", "tp=2", ["delta.rank=8"], "adds up a layer's inputs in blocks"),
    *(("llama", "adalora", layout, [], "weighs whole matrices") for layout in ("tp=2", "pp=2", "zero=1")),
    ("llama", "lora", "pp=2", ["train.accumulate=4"], "--accumulate 4: a pipeline adds up its micro-batches"),
    ("llama", "prompt", "pp=2", [], "in the layers of stage 0, 1 of 0 to 1 nothing trains"),
    ("llama", "prompt", "pp=2", ["train.train_also=[embed.*]"], "in the layers of stage 0, 1 of 0 to 1 nothing trains"),
    ("bert", "prompt", "pp=2", ["delta.tokens=4"], "in the layers of stage 0, 1 of 0 to 1 nothing trains"),
    ("llama", "prefix", "pp=2", [], "trunk.embedding trains in the layers of stages 0 and 1"),
    ("llama", "lora", "tp=2,pp=2,sequence=true", [], "tokens are split with dp and tp alone"),
    ("llama", "lora", f"{SEQUENCE},zero=1", [], "tokens are split with dp and tp alone"),
    ("bert", "lora", SEQUENCE, [], "does not say where its tokens are split"),
    ("gpt2", "lora", SEQUENCE, [], "does not say where its tokens are split"),
    ("llama", "adapter", SEQUENCE, [], "layers.0.attn.o: AdapterDense does not split tokens"),
    ("llama", "low_rank_adapter", SEQUENCE, [], "layers.0.attn.o: LowRankAdapterDense does not split tokens"),
    ("llama", "ia3", SEQUENCE, [], "layers.0.mlp.down: IA3Dense does not split tokens"),
    ("llama", "loha", SEQUENCE, ["delta.target=[all-linear]"], "layers.0.attn.o: LohaDense does not split tokens"),
    *(("llama", algo, SEQUENCE, [], "rows with virtual tokens are not split") for algo in ("prompt", "prefix", "ptuning", "ptuning2")),
    ("llama", "lora", SEQUENCE, ["data.seq_len=15"], "does not divide rows of 15 tokens"),
    ("llama", "lora", "tp=4", [], "tp=4: does not divide 2 key/value heads"),
    ("llama", "lora", "pp=4,micro_batches=4", ["train.batch_size=4"], "pp=4: does not divide 2 layers"),
    ("llama", "lora", "pp=2,micro_batches=3", [], "micro_batches=3: does not divide the --batch-size of 16 rows"),
]  # fmt: skip
