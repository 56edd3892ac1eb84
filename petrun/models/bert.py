"""BERT: a bidirectional encoder with a classification head.

Source: Devlin et al., arXiv:1810.04805; layout and names of transformers' BertForSequenceClassification.
B batch, T tokens, P virtual tokens, H hidden.
"""

from __future__ import annotations

from mindspore import nn, ops

from petrun.graph.sites import Sites
from petrun.kernels import Dropout, LayerNorm
from petrun.models.base import Family, StoredName
from petrun.models.bert_net import Bert, BertConfig, encoder_config, encoder_names, encoder_sites
from petrun.models.fields import Fields
from petrun.models.parts import DTYPES, Embedding, named
from petrun.models.tagger import with_tags
from petrun.typing import Cell, DType, JsonObject, Tensor


def parse(raw: JsonObject) -> BertConfig:
    """Defaults are those of transformers' BertConfig; sizes have none. Raises ModelError."""
    return encoder_config(Fields(raw, "bert", own=("is_causal",)))


class BertEmbeddings(nn.Cell):
    """LayerNorm(word[ids] + position[0..T-1] + token_type[types]), then dropout.

    A prompt's vectors replace word embeddings, with token type 0; a prefix takes the first positions.
    Inputs: input_ids, segment_ids, token_type_ids (B, T) int32. Returns: (B, P + T, H).
    """

    def __init__(self, c: BertConfig, dtype: DType, seed: int) -> None:
        super().__init__()
        # Set by graph.virtual_tokens where a delta has virtual tokens.
        self.prefix_tokens, self.prompt_tokens = 0, 0
        self.word = Embedding(c.vocab, c.hidden, dtype)
        self.position = Embedding(c.positions, c.hidden, dtype)
        self.token_type = Embedding(c.token_types, c.hidden, dtype)
        self.norm = LayerNorm(c.hidden, c.eps)
        self.dropout = Dropout(c.hidden_dropout, seed, "embeddings.dropout")
        self.add_type, self.add_position = ops.Add(), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch; the positions are the same for all."""
        self.add_type.shard(((dp, 1, 1), (dp, 1, 1)))
        self.add_position.shard(((dp, 1, 1), (1, 1, 1)))

    def construct(self, input_ids: Tensor, segment_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        rows, tokens = input_ids.shape
        words, count = self.word(input_ids), self.prompt_tokens
        if count > 0:
            words = ops.concat((self.word.prompt(rows, words.dtype), words), 1)
            token_type_ids = ops.concat((ops.zeros((rows, count), token_type_ids.dtype), token_type_ids), 1)
        positions = ops.reshape(self.position.slice(self.prefix_tokens, count + tokens), (1, count + tokens, -1))
        x = self.add_position(self.add_type(words, self.token_type(token_type_ids)), positions)
        return self.dropout(self.norm(x))


def build(
    config: BertConfig,
    *,
    compute_dtype: str = "float32",
    dropout_seed: int = 0,
    num_labels: int | None = None,
    tags: bool = False,
) -> Cell:
    """Build the net, its parameters zeros named by their paths. See Family.build; `tags`: as Bert."""
    dtype = DTYPES[compute_dtype]
    embeddings = BertEmbeddings(config, dtype, dropout_seed)
    return named(Bert(config, dtype, dropout_seed, num_labels or 2, embeddings, tags=tags))


def names(config: BertConfig) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    return encoder_names(config, "bert", {"pooler": "bert.pooler.dense", "classifier": "classifier"})


def sites(config: BertConfig) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    return encoder_sites(config, names(config), ("classifier.*",))


_FAMILY = Family(
    name="bert",
    hf_classes={"bert": "BertForSequenceClassification"},
    tasks=("classify",),
    inputs=("input_ids", "segment_ids", "token_type_ids"),
    parse=parse,
    build=build,
    sites=sites,
    names=names,
    prefixes=("", "bert."),
    # Buffers, and the heads of other tasks, which sequence classification does not use.
    ignored=("bert.embeddings.position_ids", "cls.*", "qa_outputs.*"),
)
FAMILY = with_tags(_FAMILY, {"bert": "BertForTokenClassification"}, "bert", ignored=("bert.pooler.*",))
