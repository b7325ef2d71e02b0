"""The logic of the programs; console entry points and ``trainers/*.py`` lead here."""
