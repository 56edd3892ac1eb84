"""Rope scalings against their formulas in float64, and against figures of transformers 5."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun.errors import ModelError
from petrun.models.fields import Fields
from petrun.models.rope import Rotary, frequencies, parse_rope

WIDTH, THETA, MAX = 16, 10000.0, 64
PLAIN = THETA ** (-np.arange(0, WIDTH, 2) / WIDTH)


def rope(scaling=None, **raw):
    f = Fields({"rope_theta": THETA, "rope_scaling": scaling, **raw}, "llama")
    parsed = parse_rope(f, WIDTH, MAX)
    f.finish()
    return parsed


def test_default():
    inverse, scale = frequencies(rope())
    assert inverse.dtype == np.float32
    np.testing.assert_allclose(inverse, PLAIN, rtol=2e-6)
    assert scale == 1.0


def test_linear():
    np.testing.assert_allclose(frequencies(rope({"type": "linear", "factor": 4}))[0], PLAIN / 4, rtol=2e-6)


def test_llama3():
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    got = frequencies(rope({**scaling, "original_max_position_embeddings": 32}))[0]
    wanted = []
    for w in PLAIN:
        turns = 32 * w / (2 * math.pi)
        share = min(max((turns - 1) / (4 - 1), 0), 1)
        wanted.append(share * w + (1 - share) * w / 8)
    np.testing.assert_allclose(got, wanted, rtol=2e-6)
    assert len({round(a / b, 3) for a, b in zip(got, PLAIN, strict=True)}) >= 3, "all three ranges must be hit"


def test_yarn():
    got, scale = frequencies(rope({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}))

    def where(turns):
        return WIDTH * math.log(32 / (turns * 2 * math.pi)) / (2 * math.log(THETA))

    low, high = max(math.floor(where(32)), 0), min(math.ceil(where(1)), WIDTH - 1)
    ramp = np.clip((np.arange(WIDTH // 2) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(got, PLAIN * (1 - ramp) + PLAIN / 4 * ramp, rtol=2e-6)
    assert scale == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_original_positions_beside_the_scaling(kind):
    """transformers takes those beside it, where both are stated."""
    scaling = {"rope_type": kind, "factor": 8.0, "original_max_position_embeddings": 16}
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    both = rope(scaling, original_max_position_embeddings=32)
    assert both == rope({**scaling, "original_max_position_embeddings": 32})
    with pytest.raises(ModelError, match='original_max_position_embeddings = "32": must be an integer'):
        rope(scaling, original_max_position_embeddings="32")


def test_yarn_options():
    base = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    assert frequencies(rope({**base, "attention_factor": 0.7}))[1] == 0.7
    both = frequencies(rope({**base, "mscale": 0.5, "mscale_all_dim": 2.0}))[1]
    assert both == pytest.approx((0.05 * math.log(4) + 1) / (0.2 * math.log(4) + 1))
    loose = frequencies(rope({**base, "truncate": False, "beta_fast": 4, "beta_slow": 0.5}))[0]
    assert np.abs(loose / frequencies(rope(base))[0] - 1).max() > 0.01


def test_transformers_figures():
    """inv_freq of transformers 5.23 for the settings of Llama 3.1 (every ninth) and of Qwen2's YaRN."""
    f = Fields(
        {
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        "llama",
    )
    np.testing.assert_allclose(frequencies(parse_rope(f, 128, 131072))[0][::9], LLAMA31, rtol=1e-6)
    f = Fields(
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
            }
        },
        "qwen2",
    )
    inverse, scale = frequencies(parse_rope(f, 128, 131072))
    np.testing.assert_allclose(inverse[::9], QWEN2, rtol=1e-6)
    assert scale == pytest.approx(1.138629436111989)


LLAMA31 = [1, 0.157972813, 0.0249554086, 0.00394227589, 7.78465546e-05, 1.22976389e-05, 1.94269251e-06, 3.06892588e-07]
QWEN2 = [1, 0.143301263, 0.0205352511, 0.00242342241, 0.000179841154, 1.51074091e-05, 2.16491094e-06, 3.10234441e-07]


@pytest.mark.parametrize("longest", [MAX - 1, 2 * MAX, 3 * MAX])
def test_dynamic(mode, longest):
    net = Rotary(rope({"type": "dynamic", "factor": 2.0}), ms.float32)
    positions = np.array([[0, 5, longest], [0, 1, 2]], np.int32)
    cos, sin = (x.asnumpy() for x in net(Tensor(positions)))
    length = max(longest + 1, MAX)
    theta = THETA * (2.0 * length / MAX - 1.0) ** (WIDTH / (WIDTH - 2))
    angles = positions[:, None, :, None] * np.tile(theta ** (-np.arange(0, WIDTH, 2) / WIDTH), 2)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-4)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-4)


@pytest.mark.parametrize("longest", [MAX // 4 - 1, MAX // 4])
def test_longrope(mode, longest):
    """A row longer than the original length is rotated by the long divisors; features without a pair stay as they are."""
    short, long = ([2.0**i, 1.0 + i] for i in (1, 2))
    f = Fields(
        {
            "rope_theta": THETA,
            "original_max_position_embeddings": MAX // 4,
            "rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": long},
        },
        "phi3",
    )
    parsed = parse_rope(f, WIDTH, MAX, share=0.25)
    f.finish()
    cos, sin = (
        x.asnumpy() for x in Rotary(parsed, ms.float32)(Tensor(np.array([[0, 3, longest], [0, 1, 2]], np.int32)))
    )
    divisors = np.array(long if longest + 1 > MAX // 4 else short)
    angles = np.array([[0, 3, longest], [0, 1, 2]])[:, None, :, None] * np.tile(
        THETA ** -np.array([0, 0.5]) / divisors, 2
    )
    scale = math.sqrt(1 + math.log(4) / math.log(MAX // 4))
    assert (parsed.width, cos.shape[-1]) == (4, WIDTH)
    np.testing.assert_allclose(cos[..., :4], scale * np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sin[..., :4], scale * np.sin(angles), atol=1e-5)
    np.testing.assert_array_equal(cos[..., 4:], 1.0)
    np.testing.assert_array_equal(sin[..., 4:], 0.0)


def test_tables(pynative):
    net = Rotary(rope({"type": "yarn", "factor": 4.0, "attention_factor": 0.5}), ms.float16)
    cos, sin = net(Tensor(np.array([[0, 3]], np.int32)))
    assert cos.shape == sin.shape == (1, 1, 2, WIDTH)
    assert cos.dtype == ms.float16
    np.testing.assert_allclose(cos.asnumpy()[0, 0, 0], 0.5)
    np.testing.assert_array_equal(sin.asnumpy()[0, 0, 1, :8], sin.asnumpy()[0, 0, 1, 8:])


def test_old_and_new_spelling_are_one():
    new = Fields({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}, "llama")
    old = Fields({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}, "llama")
    assert parse_rope(new, WIDTH, MAX) == parse_rope(old, WIDTH, MAX)
    assert parse_rope(Fields({}, "llama"), WIDTH, MAX) == rope()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"rope_scaling": {"type": "longer"}},
            'rope_scaling.rope_type = "longer" is not supported for llama; supported: default, dynamic, linear, llama3, longrope, yarn',
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0] * 8}},
            "rope_scaling.short_factor = [1.0]: must be a list of 8 numbers above 0",
        ),
        (
            {"rope_parameters": {"rope_type": "proportional"}},
            'rope_parameters.rope_type = "proportional" is not supported',
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing for rope_type = linear"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.low_freq_factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, 'rope_scaling.factor = "4": must be a number above 0'),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "rope_scaling.factor = -1: must be a number above 0"),
        (
            {"rope_scaling": {"rope_type": "default", "mrope_section": [8, 12, 12]}},
            "rope_scaling.mrope_section = [8, 12, 12] is not supported",
        ),
        ({"rope_scaling": "linear"}, 'rope_scaling = "linear": must be an object'),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.25}},
            "partial_rotary_factor = 0.25",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2, "truncate": 1}},
            "rope_scaling.truncate = 1: must be true or false",
        ),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters.full_attention"),
    ],
    ids=str,
)
def test_refused(raw, message):
    f = Fields(raw, "llama")
    parse_rope(f, WIDTH, MAX)
    with pytest.raises(ModelError) as caught:
        f.finish()
    assert message in caught.value.message


def test_odd_head_width():
    f = Fields({}, "llama")
    parse_rope(f, 7, MAX)
    with pytest.raises(ModelError, match="head_dim = 7: must be even"):
        f.finish()
