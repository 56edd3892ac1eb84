"""MindPet's PromptTuning: a table of trained vectors."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun.mindpet.delta.prompt_tuning import PromptTuning


def test_its_vectors_are_rows_of_the_table_and_train(mode):
    cell = PromptTuning(3, 4, num_transformer_submodules=2)
    (table,) = cell.trainable_params()
    assert table.name == "mindpet_delta_prompttuning_embedding.embedding_table" and table.shape == (6, 4)
    ids = Tensor([[5, 0], [0, 0]], ms.int32)
    np.testing.assert_array_equal(cell(ids).asnumpy(), table.asnumpy()[ids.asnumpy()])
    _, slopes = ms.value_and_grad(lambda i: cell(i).sum(), None, (table,))(ids) if mode else (None, None)
    if mode:
        np.testing.assert_array_equal(slopes[0].asnumpy().sum(1), [12, 0, 0, 0, 0, 4])


@pytest.mark.parametrize("name", ["num_virtual_tokens", "token_dim", "num_transformer_submodules"])
def test_documented_exceptions(name):
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("a", TypeError), (True, TypeError)):
        with pytest.raises(error, match=name):
            PromptTuning(**{"num_virtual_tokens": 1, "token_dim": 1, name: wrong})
