"""Importing tfcert: programs together, and one place that asks for the backend."""

import os
import subprocess
import sys
import textwrap
import unittest

from tests import support


def _python(code: str, **environment: str) -> str:
    """What a new interpreter prints; another process, since this one has imported everything."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=support.ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


class ImportTest(unittest.TestCase):
    def test_programs_can_be_imported_together(self):
        code = """
        from absl import flags
        import pkgutil, importlib, tfcert.cli
        for module in pkgutil.iter_modules(tfcert.cli.__path__):
            importlib.import_module("tfcert.cli." + module.name)
        modules = flags.FLAGS.flags_by_module_dict()
        print([module for module in modules if module.startswith("tfcert")])
        """
        self.assertEqual(_python(code), "[]")

    def test_only_the_backend_asks_which_backend_it_is(self):
        folder = support.ROOT / "tfcert"
        found = {
            path.relative_to(folder).parts[0]
            for path in folder.glob("**/*.py")
            if "backend.backend()" in path.read_text(encoding="utf-8")
        }
        self.assertEqual(found, {"backend"})
