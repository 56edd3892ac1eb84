"""Require that the ranks of a job start with the same settings, rows, base and first values.

A rank that differs would train without an error.
"""

from __future__ import annotations

import hashlib
import json

from petrun.cluster.world import World
from petrun.errors import SetupError
from petrun.graph.freeze import Trainable
from petrun.models.base import LoadedModel
from petrun.training.checkpointing.fingerprint import VERSIONS, fingerprint_of
from petrun.training.setup.resolve import ResolvedRun

_FIRST_VALUES = "the first values of what trains"


def require_consistent_ranks(
    resolved: ResolvedRun, loaded: LoadedModel, world: World, trainable: Trainable | None = None
) -> None:
    """Raise SetupError on every rank where one differs from the first; that rank names in what. Every rank must call it.

    `trainable`: what trains, whose first values are compared as well once the delta is attached.
    """
    if world.size == 1:
        return
    fingerprint = fingerprint_of(resolved, loaded)
    values = {key: json.dumps(value, sort_keys=True) for key, value in fingerprint.items() if key != VERSIONS}
    if trainable is not None:
        values[_FIRST_VALUES] = _digest_of_values(trainable)
    differing = world.differing(values)
    with world.fail_together():
        if differing:
            raise SetupError(
                f"differs from rank 0 in {', '.join(differing)}",
                hint="Every host needs the same files and flags; a factory of your own must make the same net in every process.",
            )


def _digest_of_values(trainable: Trainable) -> str:
    digest = hashlib.sha256()
    for parameter in trainable.parameters:
        digest.update(parameter.name.encode())
        digest.update(parameter.asnumpy().tobytes())
    return digest.hexdigest()
