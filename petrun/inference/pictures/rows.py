"""Reads rows of pictures: captions as tokens, and each picture's digest; what nets compute of them comes later."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from petrun import console
from petrun.config.schema import RunConfig
from petrun.data.examples.example_set import PICTURES, ExampleSet, Stats
from petrun.data.pictures import PictureFolder, read_folder
from petrun.data.tasks import IMAGE
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import ConfigError, ModelError
from petrun.inference.assembly import base_path
from petrun.inference.pictures.captions import caption_ids
from petrun.inference.rows import open_tokenizer
from petrun.models.pipeline import TOKENIZER, Pipeline, read_pipeline
from petrun.tensors import Array

CAPTION_IDS, DIGESTS = "caption_ids", "digests"
"""Arrays of the rows: (n, positions of the text encoder) int32, and the SHA-256 of the picture's file, (n, 32) uint8."""


def pipeline_of(config: RunConfig) -> Pipeline:
    """Read the configs of the run's pipeline. Raises ConfigError where no base is given, ModelError where it is not supported."""
    base = base_path(config.model)
    if config.model.base is None or base is None:
        raise ConfigError(
            "--task image needs --base DIR, a pipeline in diffusers' layout: the base that petrun ships is one of texts",
            hint="Example: --base ./stable-diffusion-v1-5",
        )
    if config.model.quant not in (None, "none"):
        raise ConfigError(
            f"--base-bits {config.model.quant}: the nets of a pipeline are not quantised", hint="Leave it out."
        )
    return read_pipeline(base)


def tokenizer_of(pipeline: Pipeline) -> Tokenizer:
    """Load the pipeline's tokenizer. Raises ModelError where it has none."""
    found = open_tokenizer(pipeline.folder / TOKENIZER)
    if found is None:
        raise ModelError(f"{pipeline.folder / TOKENIZER}: holds no tokenizer", hint="Fetch the pipeline again.")
    return found


def side_of(config: RunConfig, pipeline: Pipeline) -> int:
    """Return height and width of the pictures in pixels. Raises ConfigError for a side that the nets cannot halve so often."""
    side = config.image.resolution or pipeline.side
    if side % pipeline.side_multiple:
        raise ConfigError(
            f"image.resolution = {side}: must be a multiple of {pipeline.side_multiple}, by which the pipeline divides it",
            hint=f"Give {max(1, round(side / pipeline.side_multiple)) * pipeline.side_multiple}.",
        )
    return side


def read_picture_rows(config: RunConfig, tokenizer: Tokenizer) -> ExampleSet:
    """Read the folder of --data. Raises ConfigError for what runs on pictures do not have yet, DataError and ModelError."""
    _require_possible(config)
    pipeline = pipeline_of(config)
    side_of(config, pipeline)
    folder = read_folder(Path(config.data.path[0]).expanduser(), config.data.columns, config.data.encoding)
    for note in folder.notes:
        console.print(f"note: {note}")
    return _rows(folder, tokenizer, pipeline, config.data.seq_len)


def _require_possible(config: RunConfig) -> None:
    data = config.data
    if len(data.path) != 1:
        raise ConfigError("--data: a run on pictures reads one folder", hint="Put all pictures into it.")
    if data.eval_path or data.eval_split or config.eval.metrics:
        flag = "--eval-data" if data.eval_path else "--eval-split" if data.eval_split else "--metrics"
        raise ConfigError(f"{flag}: petrun does not score pictures yet", hint="Leave it out.")
    if data.pack:
        raise ConfigError("--pack: pictures have no sequences to fill", hint="Leave it out.")


def _rows(folder: PictureFolder, tokenizer: Tokenizer, pipeline: Pipeline, longest: int) -> ExampleSet:
    """`longest`: tokens of a caption, at most as many as the text encoder has positions, to which all are padded."""
    pictures = folder.pictures
    captions = caption_ids(
        [each.caption for each in pictures], [each.where for each in pictures], tokenizer, pipeline, longest
    )
    count = len(pictures)
    return ExampleSet(
        task=IMAGE,
        kind=PICTURES,
        offsets=np.zeros(count + 1, np.int64),
        flat={},
        per_row={
            "row": np.arange(count, dtype=np.int32),
            # Every row counts.
            "label": np.zeros(count, np.int32),
            "prompt_length": np.zeros(count, np.int32),
            "file": np.arange(count, dtype=np.int32),
            "line": np.ones(count, np.int32),
        },
        arrays={CAPTION_IDS: captions.ids, DIGESTS: digests(folder)},
        files=tuple(str(each.path) for each in pictures),
        references=tuple(each.caption for each in pictures),
        unused_columns=folder.unused_columns,
        stats=Stats(read=count, used=count, cut=sum(captions.cut)),
    )


def digests(folder: PictureFolder) -> Array:
    """Return the SHA-256 of every picture's file, (n, 32) uint8."""
    return np.stack([np.frombuffer(each.digest, np.uint8) for each in folder.pictures])
