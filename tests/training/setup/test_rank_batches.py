"""A rank gets its share of every batch; a batch that a graph splits always has as many rows."""

import numpy as np

from petrun.tensors.targets import unscored
from petrun.training.setup.rank_batches import pad_rows


def test_a_small_batch_is_padded_with_rows_that_count_for_nothing():
    batch = {"input_ids": np.array([[1, 2], [3, 4]]), "targets": np.array([5, 6], np.int32), "rows": (7, 8)}
    padded = pad_rows(batch, 4)
    assert padded["input_ids"].tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert padded["targets"].tolist() == [5, 6, *[unscored(np.dtype(np.int32))] * 2] and padded["rows"] == (7, 8)
    assert pad_rows(batch, 2) is batch
