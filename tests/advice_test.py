"""Holds the advice of refusals against the layers of Keras, the rules, and docs/layers.md."""

import re

import keras
import pytest

from tests import support
from tfcert import rules
from tfcert.rules import advice

NAMES = [name for names in advice.ADVICE for name in names]

# Layers that compute nothing, or what their subclasses do.
BASES = {"InputLayer", "Layer", "Wrapper"}


def _table():
    """The rows of docs/layers.md on layers: their names, and what to do."""
    text = (support.ROOT / "docs/layers.md").read_text(encoding="utf-8")
    _, _, text = text.partition("## What is refused, and why")
    rows = re.findall(r"^\| (.*) \| (.*) \|$", text, re.MULTILINE)
    layers = re.compile(r"(`[A-Z]\w+`(, )?)+")
    return {
        tuple(re.findall(r"\w+", first)): rest for first, rest in rows if layers.fullmatch(first)
    }


def test_the_page_has_the_advice_of_the_messages():
    assert _table() == advice.ADVICE


def test_every_layer_without_a_rule_has_advice_and_no_other():
    known = rules.registered()
    lacking = {
        name
        for name, kind in vars(keras.layers).items()
        if isinstance(kind, type) and issubclass(kind, keras.layers.Layer) and kind not in known
    }
    assert lacking - set(NAMES) == BASES
    # A layer that has got a rule loses its advice, here and on the page.
    assert {name for name in NAMES if getattr(keras.layers, name, None) in known} == set()
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("text", advice.ADVICE.values())
def test_advice_is_whole_sentences(text):
    assert text[0].isupper() and text.endswith(".") and "|" not in text


def test_advice_is_that_of_the_very_layer():
    assert "normalised kernel" in advice.advice_on(
        keras.layers.SpectralNormalization(keras.layers.Dense(2))
    )

    class Masking(keras.layers.Layer):
        """Of the same name as one of Keras."""

    assert "does not record" in advice.advice_on(Masking())
