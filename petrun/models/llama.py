"""Llama, and the families that share its net: Mistral (sliding window), Qwen2 (biases of q, k, v), Qwen3 (norms of q and k).

Source: Touvron et al., arXiv:2302.13971; Jiang et al., arXiv:2310.06825; Yang et al., arXiv:2407.10671 and arXiv:2505.09388; layout
and names of transformers' ForCausalLM classes.
"""

from __future__ import annotations

from petrun.data.tasks import DECODER_TASKS
from petrun.models.base import Family
from petrun.models.classifier import with_classifier
from petrun.models.llama_config import parse
from petrun.models.llama_names import names, sites
from petrun.models.llama_net import build

FAMILY = with_classifier(
    Family(
        name="llama",
        hf_classes={
            "llama": "LlamaForCausalLM",
            "mistral": "MistralForCausalLM",
            "qwen2": "Qwen2ForCausalLM",
            "qwen3": "Qwen3ForCausalLM",
        },
        tasks=DECODER_TASKS,
        inputs=("input_ids", "segment_ids", "position_ids"),
        parse=parse,
        build=build,
        sites=sites,
        names=names,
        prefixes=("", "model."),
        ignored=("model.layers.*.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
    ),
    {
        "llama": "LlamaForSequenceClassification",
        "mistral": "MistralForSequenceClassification",
        "qwen2": "Qwen2ForSequenceClassification",
        "qwen3": "Qwen3ForSequenceClassification",
    },
)
