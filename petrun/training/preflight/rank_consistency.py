"""The ranks of a job must begin as one: the same settings, rows, base and first values. What differs would train without an error."""

from __future__ import annotations

import hashlib
import json

from petrun.cluster.world import World
from petrun.errors import SetupError
from petrun.training.checkpointing.fingerprint import VERSIONS, identity_of
from petrun.training.setup.training_setup import TrainingSetup

_FIRST_VALUES = "the first values of what trains"


def hold_together(ready: TrainingSetup, world: World) -> None:
    """Every rank must call it. Raises SetupError on every rank, where one differs from the first; that one names in what."""
    if world.size == 1:
        return
    identity = identity_of(ready.resolved, ready.sources, ready.assembled.loaded, ready.start, ready.layout.dp)
    values = {key: json.dumps(value, sort_keys=True) for key, value in identity.items() if key != VERSIONS}
    differing = world.differing({**values, _FIRST_VALUES: _first_values(ready)})
    with world.fail_together():
        if differing:
            raise SetupError(
                f"differs from rank 0 in {', '.join(differing)}",
                hint="Every host needs the same files and flags; a factory of your own must make the same net in every process.",
            )


def _first_values(ready: TrainingSetup) -> str:
    found = hashlib.sha256()
    for parameter in ready.trainable.parameters:
        found.update(parameter.name.encode())
        found.update(parameter.asnumpy().tobytes())
    return found.hexdigest()
