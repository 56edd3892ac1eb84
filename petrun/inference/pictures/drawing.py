"""Draw pictures: noise to latents by the U-Net under the states of texts, latents to pictures by the autoencoder.

B pictures of a batch, Z channels, h and w height and width of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.console import print_to_stderr, progress
from petrun.evaluate.fixed_noise import fixed_normal
from petrun.evaluate.guidance import GuidedNoise
from petrun.evaluate.samplers import Steps, sample
from petrun.graph.compilations import SteadyCall
from petrun.inference.pictures.captions import caption_ids, text_states
from petrun.inference.pictures.image_model import ImageModel
from petrun.models import autoencoder_kl, clip_text
from petrun.models.pipeline import AUTOENCODER, TEXT_ENCODER, load_part
from petrun.parallel.context import eager
from petrun.tensors import Array


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn."""

    sampler: str
    steps: Steps
    guidance: float
    """Over 1: prompt and `negative` are both computed, and the difference is taken that many times."""
    negative: str
    width: int
    """Pixels, as `height`."""
    height: int

    @property
    def is_guided(self) -> bool:
        return self.guidance > 1.0


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """One picture. It depends on its own fields and on the Drawing, not on the pictures beside it."""

    prompt: str
    where: str
    """The prompt's name in messages."""
    use: str
    """A name of ImageModel.blends."""
    seed: int


class ImageGenerator:
    """Draws with one compiled graph: of one step of the U-Net, for `batch` pictures."""

    def __init__(self, model: ImageModel, how: Drawing, batch: int) -> None:
        self.model, self.how, self.batch = model, how, batch
        self._noise_of = SteadyCall(GuidedNoise(model.loaded.net))

    def draw(self, requests: Sequence[PictureRequest]) -> Iterator[Array]:
        """Yield the pictures in their order, (height, width, 3) uint8, each batch when it is finished."""
        return map(to_pixels, self.decoded(requests))

    def decoded(self, requests: Sequence[PictureRequest]) -> Iterator[Array]:
        """Yield what the autoencoder returns for each picture, (3, height, width) float32, about -1 to 1."""
        states = self._states(requests)
        autoencoder = load_part(self.model.pipeline.folder / AUTOENCODER, autoencoder_kl.FAMILY).net
        bar, done = progress("drawing", "step"), count(1)
        total = -(-len(requests) // self.batch) * len(self.how.steps.times)
        for begin in range(0, len(requests), self.batch):
            chunk = requests[begin : begin + self.batch]
            # The graph has one number of rows: the last batch is filled up.
            filled = [*chunk, *[chunk[-1]] * (self.batch - len(chunk))]
            *_, latents = self._trajectory(filled, states, lambda: bar(next(done), total))
            for latent in latents[: len(chunk)]:
                with eager():
                    found = autoencoder.decode(Tensor(latent[None] / self.model.pipeline.autoencoder.scaling))
                yield found.asnumpy()[0]

    def _trajectory(
        self, requests: Sequence[PictureRequest], states: dict[str, Array], advance: Callable[[], None]
    ) -> Iterator[Array]:
        """Yield the latents of one batch after each step, (B, Z, h, w) float32. `advance`: called after each."""
        pipeline, how = self.model.pipeline, self.how
        factor = pipeline.autoencoder.factor
        shape = (pipeline.autoencoder.latents, how.height // factor, how.width // factor)
        noise = np.stack([fixed_normal(shape, each.seed) for each in requests])
        texts = [each.prompt for each in requests]
        seen = [*([how.negative] * len(texts) if how.is_guided else []), *texts]
        text, guidance = Tensor(np.stack([states[each] for each in seen])), Tensor(how.guidance, ms.float32)
        index = self.model.multi_adapter.index
        self.model.multi_adapter.select([index(each.use) for each in requests] * (len(seen) // len(texts)))

        def predict(latents: Array, time: float) -> Array:
            times = Tensor(np.full(len(seen), time, np.float32))
            found: Array = self._noise_of(Tensor(latents), times, text, guidance).asnumpy()
            advance()
            return found

        yield from sample(how.steps, pipeline.schedule, noise, predict)

    def _states(self, requests: Sequence[PictureRequest]) -> dict[str, Array]:
        """Compute the states of every text once: text -> (positions, S) float32. What is too long is named, and cut."""
        named = {each.prompt: each.where for each in requests}
        if self.how.is_guided:
            named.setdefault(self.how.negative, "--negative")
        pipeline = self.model.pipeline
        positions = pipeline.text.positions
        assert positions is not None
        found = caption_ids(list(named), list(named.values()), self.model.tokenizer, pipeline, positions)
        for where, cut in zip(named.values(), found.cut, strict=True):
            if cut:
                print_to_stderr(f"note: {where}: is longer than {positions} tokens, and its end is left out")
        encoder = load_part(pipeline.folder / TEXT_ENCODER, clip_text.FAMILY).net
        with eager():
            return {text: text_states(encoder, found.ids[i : i + 1])[0] for i, text in enumerate(named)}


def to_pixels(decoded: Array) -> Array:
    """(3, height, width) float32 in [-1, 1] -> (height, width, 3) uint8."""
    found: Array = np.round((np.clip(decoded, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(found.transpose(1, 2, 0))
