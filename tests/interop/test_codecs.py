"""Every form that a method's record claims in another tool's files has a codec, and every codec belongs to a method."""

from petrun.checkpoint.mindpet_names import UNTRAINED
from petrun.delta import METHODS
from petrun.interop.mindpet import reading
from petrun.interop.peft import adapter


def test_peft():
    claimed = {kind: name for name, method in METHODS.items() if isinstance(method.peft, tuple) for kind in method.peft}
    assert claimed.keys() == adapter.CODECS.keys()
    written = [method.peft[0] for method in METHODS.values() if isinstance(method.peft, tuple)]
    assert all(adapter.CODECS[kind].write is not None for kind in written)


def test_mindpet():
    claimed = [method.mindpet for method in METHODS.values() if isinstance(method.mindpet, str)]
    assert sorted(claimed) == sorted(reading.CODECS) and len(set(claimed)) == len(claimed)
    assert UNTRAINED not in reading.CODECS
    assert all((codec.settings is None) != (codec.convert is None) for codec in reading.CODECS.values())
