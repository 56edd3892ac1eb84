"""Files of GPTQ's and AWQ's tools: codes, zeros and scales come back as they were packed."""

import numpy as np
import pytest

from petrun.errors import WeightsError
from petrun.tensors import array_entries, open_tensors, write_safetensors
from petrun.tensors.quantised.groups import layout_of, packed_tensors, unsupported
from tests.tensors.quantised.group_files import awq, gptq, values

OUT, WIDE, BLOCK = 16, 48, 16
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": BLOCK, "checkpoint_format": "gptq"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": BLOCK, "version": "gemm"}
IN_TURN = np.repeat(np.arange(WIDE // BLOCK), BLOCK)
MIXED = np.random.default_rng(9).permutation(IN_TURN)


def numbers(bits, block=BLOCK):
    """Codes and zeros at both ends of their range, the zero 0 among them, and scales of very different size."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (WIDE, OUT))
    zeros = rng.integers(0, 2**bits, (WIDE // block, OUT))
    codes[:2], zeros[0, :3] = [[0], [2**bits - 1]], (0, 1, 2**bits - 1)
    return codes, zeros, np.geomspace(1e-3, 3, zeros.size).reshape(zeros.shape).astype(np.float16)


def written(folder, arrays):
    write_safetensors(folder / "model.safetensors", array_entries(arrays), {})
    return open_tensors(folder / "model.safetensors")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("groups", "more"),
    [
        (IN_TURN, {}),
        (IN_TURN, {"with_groups": False}),
        (MIXED, {}),
        (IN_TURN, {"less_one": False}),
        (MIXED, {"less_one": False}),
    ],
    ids=["in-turn", "no-g_idx", "desc_act", "v2", "v2-desc_act"],
)
def test_gptq(tmp_path, bits, groups, more):
    codes, zeros, scales = numbers(bits)
    reader = written(tmp_path, gptq("layer", codes, zeros, scales, groups, bits, **more))
    stated = {**GPTQ, "bits": bits, "checkpoint_format": "gptq_v2" if "less_one" in more else "gptq"}
    (name, tensor), *_ = packed_tensors(reader, stated).items()
    matrix = tensor.load()
    assert name == "layer.weight" and tensor.dtype == "float16" and len(packed_tensors(reader, stated)) == 1
    assert set(tensor.parts) == set(reader.names)
    np.testing.assert_array_equal(matrix.dequantised(), values(codes, zeros, scales, groups))
    np.testing.assert_array_equal(matrix.dequantised(slice(3, 7)), values(codes, zeros, scales, groups)[3:7])
    assert matrix.layout == tensor.layout == layout_of({**stated, "desc_act": groups is MIXED}, (OUT, WIDE))


def test_awq(tmp_path):
    codes, zeros, scales = numbers(4)
    reader = written(tmp_path, awq("layer", codes, zeros, scales))
    tensor = packed_tensors(reader, AWQ)["layer.weight"]
    np.testing.assert_array_equal(tensor.load().dequantised(), values(codes, zeros, scales, IN_TURN))
    assert tensor.load().layout == tensor.layout == layout_of(AWQ, (OUT, WIDE))


def test_one_group_of_all_inputs(tmp_path):
    codes, zeros, scales = numbers(4, block=WIDE)
    stated = {**GPTQ, "group_size": -1, "desc_act": True}
    everything = np.zeros(WIDE, int)
    tensor = packed_tensors(written(tmp_path, gptq("layer", codes, zeros, scales, everything, 4)), stated)[
        "layer.weight"
    ]
    np.testing.assert_array_equal(tensor.load().dequantised(), values(codes, zeros, scales, everything))
    assert tensor.layout == layout_of(stated, (OUT, WIDE))


@pytest.mark.parametrize(
    ("leaf", "change", "message"),
    [
        ("qzeros", None, "layer: lacks qzeros"),
        ("scales", lambda a: a[:2], "do not belong together as gptq"),
        ("scales", lambda a: a[:, :8], "do not belong together as gptq"),
        ("qweight", lambda a: a.astype(np.int64), "are no matrices of int32 and floats"),
        ("g_idx", lambda a: a * 0, "g_idx does not put 16 of 48 inputs in each group"),
        ("g_idx", lambda a: a - 1, "g_idx does not put 16 of 48 inputs in each group"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, leaf, change, message):
    codes, zeros, scales = numbers(4)
    arrays = gptq("layer", codes, zeros, scales, IN_TURN, 4)
    changed = arrays.pop(f"layer.{leaf}")
    if change is not None:
        arrays[f"layer.{leaf}"] = change(changed)
    with pytest.raises(WeightsError, match=message):
        packed_tensors(written(tmp_path, arrays), GPTQ)


@pytest.mark.parametrize(
    ("stated", "key"),
    [
        ({**GPTQ, "bits": 3}, "bits"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format"),
        ({**GPTQ, "pack_dtype": "int64"}, "pack_dtype"),
        ({**AWQ, "version": "gemv"}, "version"),
        ({**AWQ, "bits": 8}, "bits"),
        ({**GPTQ, "group_size": 0}, "group_size"),
        ({"quant_method": "awq", "bits": 4}, "group_size"),
    ],
)
def test_other_layouts_are_refused_by_their_key(stated, key):
    assert unsupported(stated)[0] == key


@pytest.mark.parametrize("stated", [GPTQ, AWQ, {**AWQ, "version": "GEMM"}, {**GPTQ, "group_size": -1}])
def test_these_are_read(stated):
    assert unsupported(stated) is None
