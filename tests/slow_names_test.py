"""The list of slow tests names tests that are there."""

import re

from tests import relaxations_support, support


def test_all_of_them_are_there():
    for name in support.slow_names():
        file, *_, test = name.split("::")
        source = (support.ROOT / "tests" / file).read_text(encoding="utf-8")
        function = re.sub(r"\[.*", "", test)
        # Parametrized cases of absl have a number behind the name of the function, or the name of
        # a relaxation.
        parts = re.findall(r"def (test_\w+)\(", source)
        ends = [function.removeprefix(part) for part in parts if function.startswith(part)]
        named = {f"_{case}" for case in relaxations_support.CASES}
        assert any(not end or end.isdigit() or end in named for end in ends), name
