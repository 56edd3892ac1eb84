"""Near duplicates against exact similarities, and against datasketch's own index."""

import random

import numpy as np
import pytest

datasketch = pytest.importorskip("datasketch")
from petrun.curation.near_duplicates import PERMUTATIONS, NearDuplicates, shingles  # noqa: E402


def grams(text):
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def jaccard(one, other):
    one, other = grams(one), grams(other)
    return len(one & other) / len(one | other)


def texts(count, seed=0):
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnop你好世界天气", k=draw.randint(2, 7))) for _ in range(500)]
    return [" ".join(draw.choices(words, k=draw.randint(10, 40))) for _ in range(count)]


def grouped(tmp_path, items, threshold=0.8, alive=None):
    with NearDuplicates(threshold, tmp_path) as index:
        for item in items:
            index.add(item)
        return index.groups(alive)


def test_shingles_are_the_distinct_5_grams():
    for text in (*texts(20), "", "ab", "aaaaaaaaaa", "😀😀😀😀😀😀"):
        assert len(shingles(text)) == len(grams(text))
    assert set(shingles("abcdef")) & set(shingles("bcdefg")) == set(shingles("bcdef"))


def test_groups_are_those_of_the_exact_similarities(tmp_path):
    base = texts(60)
    items = base + [text + " end" for text in base[:30]] + [text[: len(text) // 2] for text in base[30:40]]
    first, at = grouped(tmp_path, items)
    assert first.tolist() == [*range(60), *range(30), *range(90, 100)]
    for i, text in enumerate(items):
        # Six standard errors of 128 minima.
        assert abs(at[i] - jaccard(text, items[first[i]])) < 6 * np.sqrt(0.25 / PERMUTATIONS)


def test_candidates_are_those_of_datasketchs_index(tmp_path):
    """Given the same signatures and bands, every pair that datasketch's own index returns and that is near enough is in one group."""
    base = texts(40, seed=3)
    items = base + [" ".join(text.split()[:-2]) for text in base]
    first, _ = grouped(tmp_path, items, 0.7)
    index = datasketch.MinHashLSH(threshold=0.7, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    sketches = []
    for i, text in enumerate(items):
        sketch = datasketch.MinHash(num_perm=PERMUTATIONS, hashfunc=lambda value: value, scheme="affine32")
        sketch.update_batch((shingles(text) & np.uint64(0xFFFFFFFF)).tolist())
        sketches.append(sketch)
        near = [j for j in index.query(sketch) if sketches[j].jaccard(sketch) >= 0.7]
        assert {first[j] for j in near} <= {first[i]}
        assert bool(near) == (first[i] != i)
        index.insert(i, sketch)


def test_chains_are_one_group_and_texts_that_take_no_part_are_left(tmp_path):
    (text,) = texts(1)
    words = text.split()
    chain = [" ".join(words[: len(words) - k]) for k in range(4)]
    assert grouped(tmp_path, chain, 0.85)[0].tolist() == [0, 0, 0, 0]
    alive = np.array([False, True, True, True])
    assert grouped(tmp_path, chain, 0.85, alive)[0].tolist() == [0, 1, 1, 1]
    assert grouped(tmp_path, [], 0.8)[0].tolist() == [] and not list(tmp_path.iterdir())
