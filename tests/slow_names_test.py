"""The list of slow tests names tests that are there."""

import re

from tests import support


def test_all_of_them_are_there():
    for name in support.slow_names():
        file, *_, test = name.split("::")
        source = (support.ROOT / "tests" / file).read_text(encoding="utf-8")
        function = re.sub(r"\[.*", "", test)
        # Parametrized cases of absl have their number or their name behind that of the function.
        parts = re.findall(r"def (test_\w+)\(", source)
        ends = [function.removeprefix(part) for part in parts if function.startswith(part)]
        assert any(not end or end.isdigit() or end[0] == "_" for end in ends), name
