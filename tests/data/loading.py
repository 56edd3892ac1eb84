"""Data files to examples, with every setting as a keyword."""

from petrun.data.load import load_examples
from petrun.data.settings import ExampleSettings


def read_examples(paths, *, tokenizer, weights=(), shares=(), seed=0, cache_dir=None, progress=None, **settings):
    """load_examples of ExampleSettings(**settings)."""
    return load_examples(
        paths,
        tokenizer,
        ExampleSettings(**settings),
        weights=weights,
        shares=shares,
        seed=seed,
        cache_dir=cache_dir,
        progress=progress,
    )
