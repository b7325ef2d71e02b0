"""The list of slow tests names tests that are there."""

import re

from tests import support


def test_all_of_them_are_there():
    for name in support.slow_names():
        file, *_, test = name.split("::")
        source = (support.ROOT / "tests" / file).read_text(encoding="utf-8")
        function = re.sub(r"\[.*", "", test)
        # Parametrized cases of absl have their number behind the name.
        assert f"def {function.rstrip('0123456789')}" in source, name
