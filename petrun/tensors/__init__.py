"""Read and write files of named tensors: safetensors, Hugging Face folders, MindSpore checkpoints, and the shards of a job's ranks.
Other packages interpret the tensors.
"""

from petrun.tensors.atomic import atomic_file, atomic_folder
from petrun.tensors.digest import content_digest, tensor_digest
from petrun.tensors.dtypes import Array, from_bfloat16, to_bfloat16
from petrun.tensors.reader import TensorReader, open_tensors
from petrun.tensors.sharded.checkpoint import ShardedReader, open_sharded
from petrun.tensors.sharded.layout import TensorLayout
from petrun.tensors.table import TensorInfo
from petrun.tensors.writers import (
    TensorEntry,
    array_entries,
    write_ckpt,
    write_safetensors,
    write_safetensors_folder,
)

Layout = TensorLayout
"""The name of TensorLayout in earlier documentation."""

__all__ = [
    "Array",
    "Layout",
    "ShardedReader",
    "TensorEntry",
    "TensorInfo",
    "TensorLayout",
    "TensorReader",
    "array_entries",
    "atomic_file",
    "atomic_folder",
    "content_digest",
    "from_bfloat16",
    "open_sharded",
    "open_tensors",
    "tensor_digest",
    "to_bfloat16",
    "write_ckpt",
    "write_safetensors",
    "write_safetensors_folder",
]
