"""A family as a contributor would write it: a bag-of-embeddings classifier, in one file."""

from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from petrun.graph.sites import Sites
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.fields import Fields
from petrun.models.parts import DTYPES, Embedding, cell_paths, dense, named


@dataclass(frozen=True, kw_only=True)
class BagConfig(FamilyConfig):
    scale: float


def parse(raw):
    f = Fields(raw, "bag")
    config = BagConfig(
        vocab=f.integer("vocab_size"),
        hidden=f.integer("hidden_size"),
        layers=1,
        heads=0,
        kv_heads=0,
        wide=0,
        positions=None,
        scale=f.positive("scale", 1.0),
    )
    f.finish()
    return config


class Bag(nn.Cell):
    """out(tanh(mix(scale * mean of the row's embeddings))). Inputs: input_ids, segment_ids (B, T) int32. Returns: (B, C) float32."""

    def __init__(self, c, dtype, num_labels):
        super().__init__()
        self.scale = c.scale
        self.embed = Embedding(c.vocab, c.hidden, dtype)
        self.mix = dense(c.hidden, c.hidden, dtype)
        self.out = dense(c.hidden, num_labels, ms.float32)

    def construct(self, input_ids, segment_ids):
        x = self.embed(input_ids)
        real = ops.expand_dims(ops.cast(segment_ids > 0, x.dtype), 2)
        mean = self.scale * (x * real).sum(1) / ops.maximum(real.sum(1), 1.0)
        return ops.cast(self.out(ops.cast(ops.tanh(self.mix(mean)), ms.float32)), ms.float32)


def build(config, *, compute_dtype="float32", dropout_seed=0, num_labels=None):
    return named(Bag(config, DTYPES[compute_dtype], num_labels or 2))


def names(config):
    return {
        "embed.weight": StoredName(name="bag.words.weight"),
        "mix.weight": StoredName(name="bag.mixer.weight", transpose=True),
        "mix.bias": StoredName(name="bag.mixer.bias"),
        "out.weight": StoredName(name="score.weight", optional=True),
        "out.bias": StoredName(name="score.bias", optional=True),
    }


def sites(config):
    return Sites(
        linears={"mix": "mix"},
        default_roles=("mix",),
        tables=("embed",),
        embedding="embed",
        head="out",
        trained_heads=("out.*",),
        hf_paths=cell_paths(names(config)),
        hidden=config.hidden,
        layers=config.layers,
    )


FAMILY = Family(
    name="bag",
    hf_classes={"bag": "BagForSequenceClassification"},
    tasks=("classify",),
    inputs=("input_ids", "segment_ids"),
    parse=parse,
    build=build,
    sites=sites,
    names=names,
    prefixes=("", "bag."),
    ignored=("cls.*",),
)
