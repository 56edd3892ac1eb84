"""Write new.bin, old.bin and strided.bin with torch: `python tests/tensors/torch_files/make.py`, where torch is installed."""

from pathlib import Path

import torch

HERE = Path(__file__).parent


def main():
    """Tensors whose values tests/tensors/test_torch_file.py knows."""
    whole = torch.arange(12, dtype=torch.float16).reshape(4, 3)
    tensors = torch.nn.Module().state_dict()
    tensors["single"] = torch.tensor([[1.5, -2.0, 0.25], [3.0, 4.0, 5.0]])
    tensors["tied"] = tensors["single"]
    tensors["rows"] = whole[1:3]
    tensors["bfloat16"] = torch.tensor([1.0, -0.5], dtype=torch.bfloat16)
    tensors["number"] = torch.tensor(7)
    tensors["parameter"] = torch.nn.Parameter(torch.tensor([2.5]))
    tensors["empty"] = torch.zeros(0, 3)
    tensors["flags"] = torch.tensor([True, False])
    torch.save(tensors, HERE / "new.bin")
    torch.save(tensors, HERE / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"turned": whole.t()}, HERE / "strided.bin")


if __name__ == "__main__":
    main()
