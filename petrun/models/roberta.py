"""RoBERTa and XLM-RoBERTa: BERT's encoder with positions counted from behind that of padding, and a head with a layer of its own.

Source: Liu et al., arXiv:1907.11692; Conneau et al., arXiv:1911.02116; layout and names of transformers' RobertaForSequenceClassification
and XLMRobertaForSequenceClassification.
B batch, T tokens, P virtual tokens, H hidden.
"""

from __future__ import annotations

import mindspore as ms
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
    """Defaults are those of transformers' RobertaConfig and XLMRobertaConfig; sizes have none. Raises ModelError."""
    f = Fields(raw, str(raw.get("model_type") or "roberta"), own=("is_causal",))
    return encoder_config(f, padding_row=f.integer("pad_token_id", 1, least=0))


class RobertaEmbeddings(nn.Cell):
    """LayerNorm(word[ids] + token_type[0] + position[r + 1 + positions]), then dropout; r the row of padding, which padding takes.

    A prompt's vectors replace word embeddings: as in transformers, positions are then counted over padding as well. A prefix takes the
    first positions.
    Inputs: input_ids, segment_ids (0 = padding), position_ids (B, T) int32. Returns: (B, P + T, H).
    """

    def __init__(self, c: BertConfig, dtype: DType, seed: int) -> None:
        super().__init__()
        # Set by graph.virtual_tokens where a delta has virtual tokens.
        self.prefix_tokens, self.prompt_tokens = 0, 0
        self.first_row = c.unused_positions
        self.word = Embedding(c.vocab, c.hidden, dtype)
        self.position = Embedding(c.positions + c.unused_positions, c.hidden, dtype)
        self.token_type = Embedding(c.token_types, c.hidden, dtype)
        self.norm = LayerNorm(c.hidden, c.eps)
        self.dropout = Dropout(c.hidden_dropout, seed, "embeddings.dropout")
        self.add_type, self.add_position = ops.Add(), ops.Add()
        self.shift, self.is_token, self.of_tokens, self.after_first = ops.Add(), ops.Greater(), ops.Mul(), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch; the token type is the same for all."""
        self.add_type.shard(((dp, 1, 1), (1, 1, 1)))
        self.add_position.shard(((dp, 1, 1), (dp, 1, 1)))
        for operator in (self.shift, self.is_token, self.after_first):
            operator.shard(((dp, 1), ()))
        self.of_tokens.shard(((dp, 1), (dp, 1)))

    def rows(self, segment_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Rows of the table of positions, (B, P + T) int32."""
        if self.prompt_tokens > 0:
            count = self.prompt_tokens + segment_ids.shape[1]
            first = self.first_row + self.prefix_tokens
            return ops.broadcast_to(ops.arange(first, first + count, dtype=ms.int32), (segment_ids.shape[0], count))
        # The row before the first is that of padding.
        shifted = self.shift(position_ids, self.prefix_tokens + 1)
        return self.after_first(
            self.of_tokens(shifted, ops.cast(self.is_token(segment_ids, 0), ms.int32)), self.first_row - 1
        )

    def construct(self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor) -> Tensor:
        words = self.word(input_ids)
        if self.prompt_tokens > 0:
            words = ops.concat((self.word.prompt(words.shape[0], words.dtype), words), 1)
        x = self.add_type(words, ops.reshape(self.token_type.slice(0, 1), (1, 1, -1)))
        return self.dropout(self.norm(self.add_position(x, self.position(self.rows(segment_ids, position_ids)))))


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
    embeddings = RobertaEmbeddings(config, dtype, dropout_seed)
    return named(Bert(config, dtype, dropout_seed, num_labels or 2, embeddings, drops_first=True, tags=tags))


def names(config: BertConfig) -> dict[str, StoredName]:
    """Name every parameter as transformers saves it."""
    return encoder_names(config, "roberta", {"pooler": "classifier.dense", "classifier": "classifier.out_proj"})


def sites(config: BertConfig) -> Sites:
    """Describe where deltas attach, and how the cells are sharded."""
    return encoder_sites(config, names(config), ("pooler.*", "classifier.*"))


_FAMILY = Family(
    name="roberta",
    hf_classes={"roberta": "RobertaForSequenceClassification", "xlm-roberta": "XLMRobertaForSequenceClassification"},
    tasks=("classify",),
    inputs=("input_ids", "segment_ids", "position_ids"),
    parse=parse,
    build=build,
    sites=sites,
    names=names,
    prefixes=("", "roberta."),
    # Buffers, the pooler that this head does not read, and the heads of other tasks.
    ignored=(
        *("roberta.embeddings.position_ids", "roberta.pooler.*", "lm_head.*", "qa_outputs.*"),
        *("classifier.weight", "classifier.bias"),
    ),
)
FAMILY = with_tags(
    _FAMILY,
    {"roberta": "RobertaForTokenClassification", "xlm-roberta": "XLMRobertaForTokenClassification"},
    "roberta",
    ignored=("classifier.dense.*", "classifier.out_proj.*"),
)
