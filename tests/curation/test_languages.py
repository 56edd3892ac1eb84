"""Languages of whole sentences; short texts are not told."""

import pytest

pytest.importorskip("py3langid")
from petrun.curation.languages import UNKNOWN, LanguageTeller
from petrun.errors import ConfigError


def test_languages_are_told():
    tell = LanguageTeller()
    assert tell("The delivery is expected on Monday morning.") == "en"
    assert tell("今天天气很好，我们去公园散步。") == "zh"
    assert tell("Die Lieferung wird am Montag erwartet.") == "de"
    assert tell("OK 42") == UNKNOWN
    with pytest.raises(ConfigError, match="no language 'english'"):
        tell.require_known("--langs", ["en", "english"])
