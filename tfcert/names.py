"""Names as people write them: aliases, and the nearest name to a misspelt one.

Nothing is imported here, so that programs can use it before they load TensorFlow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["find", "hyphenated", "nearest", "norm_text"]

_NORM = re.compile(r"(?:l|ℓ)[-_]?(inf|infinity|∞|\d+(?:\.\d+)?)")


def hyphenated(name: str) -> str:
    """A name in the spelling of tfcert: lower case, with hyphens.

    >>> hyphenated("CROWN_IBP"), hyphenated("α-CROWN")
    ('crown-ibp', 'alpha-crown')
    """
    return re.sub(r"[\s_]+", "-", name.strip().lower()).replace("α", "alpha")


def find(name: str, names: Iterable[str]) -> str | None:
    """The name that is meant, whatever its case, hyphens and underscores; None if there is none.

    >>> known = ["ibp", "crown-ibp", "alpha-crown"]
    >>> [find(name, known) for name in ("crown-ibp", "CROWN_IBP", "AlphaCrown", "CROWN")]
    ['crown-ibp', 'crown-ibp', 'alpha-crown', None]
    """
    known = list(names)
    if name in known:
        return name
    wanted = hyphenated(name).replace("-", "")
    return next((one for one in known if hyphenated(one).replace("-", "") == wanted), None)


def norm_text(name: str) -> str:
    """The name of a norm as p alone: "inf" or the digits of a number.

    >>> norm_text("linf"), norm_text("L2"), norm_text("l_1"), norm_text("1.5")
    ('inf', '2', '1', '1.5')
    """
    text = name.strip().lower()
    found = _NORM.fullmatch(text)
    text = found[1] if found else text
    return "inf" if text in ("infinity", "∞") else text


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that a misspelt or abbreviated word most likely means; None if nothing is near.

    >>> names = ["learning_rate", "eps", "objective", "out"]
    >>> [nearest(word, names) for word in ("lr", "epsilon", "objectve", "output", "xyz")]
    ['learning_rate', 'eps', 'objective', 'out', None]
    """
    known = {hyphenated(name): name for name in names}
    word = hyphenated(word)
    if not word:
        return None
    if word in known:
        return known[word]
    initials = {"".join(part[:1] for part in key.split("-")): name for key, name in known.items()}
    if len(word) > 1 and word in initials:
        return initials[word]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    if close:
        return known[close[0]]
    # Abbreviations, or longer words: the name that shares the longest beginning.
    begins = [
        key for key in known if key.startswith(word) or (len(key) > 2 and word.startswith(key))
    ]
    if begins:
        return known[min(begins, key=lambda key: abs(len(key) - len(word)))]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return known[close[0]] if close else None
