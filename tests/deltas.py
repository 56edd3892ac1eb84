"""Deltas with random values that matter, made without training."""

import numpy as np

from petrun.checkpoint.delta import BaseIdentity, Manifest, TaskInfo, save_delta
from petrun.delta import find_method
from petrun.inference.assembly import attach
from petrun.models.factory import load_model

FROZEN = ("_keep", "_a0", "_b0")


def make_delta(path, base, algo, *, seed=1, task="instruct", template="", size=0.1, **settings):
    """A delta file of an algorithm on a base folder: initial values plus noise. Returns the path."""
    loaded = load_model(base, task=task, num_labels=2 if task == "classify" else None)
    method = find_method(algo)
    config = method.config(**settings)
    owned = attach(loaded, method, config, 0, loaded.fresh).owned
    rng = np.random.default_rng(seed)
    values = {}
    for p in loaded.net.get_parameters():
        if p.name in owned:
            noise = size * rng.normal(size=p.shape)
            values[p.name] = (p.asnumpy() + (0.0 if p.name.endswith(FROZEN) else noise)).astype(np.float32)
    manifest = Manifest(
        algo=algo,
        config=config.model_dump(mode="json"),
        family=loaded.family,
        model_type=loaded.model_type,
        hf_config=loaded.hf_config,
        base=BaseIdentity(digest=loaded.base_digest, name=base.name, fresh=loaded.fresh),
        task=TaskInfo(name=task, num_labels=2 if task == "classify" else None),
        template=template or None,
    )
    save_delta(path, values, manifest)
    return path
