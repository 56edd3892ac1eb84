"""Digests depend on content alone."""

import numpy as np

from petrun.tensors import (
    array_entries,
    content_digest,
    open_tensors,
    tensor_digest,
    write_ckpt,
    write_safetensors_folder,
)

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2])}


def of(reader):
    lines = [(n, reader.info(n).dtype, reader.info(n).shape, tensor_digest(reader, n)) for n in reader.names]
    return content_digest(lines)


def test_format_order_and_sharding_do_not_matter(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", array_entries(ARRAYS), part_bytes=5)
    (tmp_path / "whole").mkdir()
    (tmp_path / "shards").mkdir()
    write_safetensors_folder(tmp_path / "whole", array_entries(ARRAYS))
    write_safetensors_folder(tmp_path / "shards", array_entries(dict(reversed(ARRAYS.items()))), max_shard_bytes=1)
    assert len({of(open_tensors(tmp_path / p)) for p in ("a.ckpt", "whole", "shards")}) == 1


def test_every_part_of_the_content_matters():
    base = [("a", "float32", (2, 3), "d"), ("b", "int64", (), "e")]
    others = [
        base[:1],
        [("c", "float32", (2, 3), "d"), base[1]],
        [("a", "float16", (2, 3), "d"), base[1]],
        [("a", "float32", (3, 2), "d"), base[1]],
        [("a", "float32", (2, 3), "f"), base[1]],
        [("afloat32", "", (2, 3), "d"), base[1]],
    ]
    assert len({content_digest(lines) for lines in [base, *others]}) == 7
    assert content_digest(base) == content_digest(reversed(base))
