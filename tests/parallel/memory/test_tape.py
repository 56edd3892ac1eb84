"""A tape is replayed as a runtime that frees tensors behind their last use would do it; all figures are summed by hand."""

from petrun.parallel.memory.tape import Replay, Tape, Value


def parameter(count):
    return Value(
        shape=(count,),
        item_bytes=4,
        needs_gradient=True,
        is_parameter=True,
        gradient_bytes=4 * count,
        counted_elsewhere=True,
    )


def chain(tape, again=False):
    """x (100 bytes) -> a (200) -> b (300) -> loss (4); a trains with a weight of 10 values, b keeps a."""
    x, w = Value(shape=(25,), item_bytes=4), parameter(10)
    with tape.computed_again(again):
        a = tape.record([x, w], (50,), 4, keeps=[x])
        b = tape.record([a], (75,), 4, keeps=[a])
    return tape.record([b], (1,), 4, keeps=[b])


def test_what_gradients_need_is_kept_and_the_rest_is_freed():
    tape = Tape()
    chain(tape)
    usage = Replay(tape).run()
    # x, a and b are kept. The peak: they, and the gradient of b.
    assert sum(usage.kept.values()) == 100 + 200 + 300
    assert sum(usage.peak.values()) == 600 + 300
    # At the end only the gradient of the weight is left, and nothing else.
    assert {part: count for part, count in usage.now.items() if count} == {"gradients": 40}


def test_without_gradients_nothing_is_kept():
    tape = Tape()
    x = Value(shape=(25,), item_bytes=4)
    a = tape.record([x], (50,), 4, keeps=[x])
    tape.record([a], (75,), 4, keeps=[a])
    usage = Replay(tape).run()
    assert not sum(usage.now.values()) and sum(usage.peak.values()) == 500


def test_a_segment_that_is_computed_again_keeps_its_input_alone():
    tape = Tape()
    chain(tape, again=True)
    usage = Replay(tape).run()
    # b is read by the loss, outside of the segment.
    assert sum(usage.kept.values()) == 100 + 300
    assert {part: count for part, count in usage.now.items() if count} == {"gradients": 40}


def test_gradients_of_one_tensor_are_summed_into_another():
    tape = Tape()
    w = parameter(10)
    a = tape.record([w], (100,), 4)
    left, right = tape.record([a], (100,), 4), tape.record([a], (100,), 4)
    tape.record([left, right], (1,), 4, passes=True)
    usage = Replay(tape).run()
    # Both gradients of a, of 400 bytes, and their sum.
    assert sum(usage.peak.values()) == 1200


def test_a_shared_matrix_has_one_gradient():
    tape = Tape()
    own = {
        "shape": (10,),
        "item_bytes": 4,
        "needs_gradient": True,
        "is_parameter": True,
        "gradient_bytes": 40,
        "owner": 7,
    }
    first, second = (Value(**own, counted_elsewhere=True) for _ in range(2))
    a = tape.record([first], (10,), 4)
    tape.record([a, second], (1,), 4)
    usage = Replay(tape).run()
    assert usage.now["gradients"] == 40
