"""Tell the language of a text, by py3langid: a naive Bayes model over bytes that comes inside its package.

Source: Lui and Baldwin, "langid.py: An Off-the-shelf Language Identification Tool", ACL 2012.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from petrun.errors import ConfigError, SetupError, did_you_mean

UNKNOWN = "?"
_LEAST_LETTERS = 20
"""A text with fewer letters is not told apart: names and numbers alone fit any language."""
_LEAST_IDEOGRAPHS = 5
_MOST_CHARACTERS = 1000
_PACKAGE = "py3langid"


def has_language_model() -> bool:
    """Return whether the package is installed."""
    return find_spec(_PACKAGE) is not None


class LanguageTeller:
    """Tells the ISO 639-1 code of a text, or `?` where it is too short to tell."""

    def __init__(self) -> None:
        """Raises SetupError without the package."""
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise SetupError(
                f"telling languages needs the package {_PACKAGE}, which cannot be imported: {error}",
                hint="pip install 'petrun[data]'",
            ) from error
        self._model = LanguageIdentifier.from_pickled_model(MODEL_FILE)

    def __call__(self, text: str) -> str:
        head = text[:_MOST_CHARACTERS]
        letters = sum(map(str.isalpha, head))
        wide = sum(ch > "\u2e7f" for ch in head)
        if letters < _LEAST_LETTERS and wide < _LEAST_IDEOGRAPHS:
            return UNKNOWN
        return str(self._model.classify(head)[0])

    def require_known(self, flag: str, names: Iterable[str]) -> None:
        """Raises ConfigError for a code that the model does not know."""
        known = list(map(str, self._model.nb_classes))
        for name in names:
            if name not in known:
                raise ConfigError(f"{flag}: no language '{name}'", hint=did_you_mean(name, known))
