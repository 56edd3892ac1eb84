"""Llama, and the families that share its net: Mistral (sliding window), Qwen2 (biases of q, k, v), Qwen3 (norms of q and k).

Source: Touvron et al., arXiv:2302.13971; Jiang et al., arXiv:2310.06825; Yang et al., arXiv:2407.10671 and arXiv:2505.09388; layout
and names of transformers' ForCausalLM classes.
"""

from __future__ import annotations

from petrun.models.llama_config import parse
from petrun.models.llama_family import llama_family

FAMILY = llama_family(
    name="llama",
    causal={
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
    },
    classes={
        "llama": "LlamaForSequenceClassification",
        "mistral": "MistralForSequenceClassification",
        "qwen2": "Qwen2ForSequenceClassification",
        "qwen3": "Qwen3ForSequenceClassification",
    },
    parse=parse,
)
