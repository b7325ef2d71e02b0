"""Set-up that every test shares: the backend, exact matrix products, the shared files."""

import functools
import gc
import os
import pathlib
import sys
import types
import typing

# Before Keras is imported, since Keras reads the variable once. KERAS_BACKEND=jax still wins.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
from absl import flags

from tests import support

# absl's test cases read flags (create_tempdir does), which absltest.main would have parsed.
flags.FLAGS.mark_as_parsed()

# TensorFlow asks at every operation whether a value follows a protocol. Python 3.12 remembers what
# belongs to a protocol; 3.11 finds it anew each time, which is a tenth of all that these tests do.
if sys.version_info < (3, 12):
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)


def pytest_configure(config):
    """Loads the libraries and sets them up, but not in a process that only hands tests out."""
    if getattr(config.option, "dist", "no") != "no":
        return
    import keras

    # TF32 keeps 10 bits of the mantissa, far less than the slack that tests allow for rounding.
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")

    # The libraries' own objects, half a million, stay: collections need not walk through them.
    # Tracing makes many more, few of them garbage.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture
def shared_dir() -> pathlib.Path:
    """The folder of data sets and reference results beside the checkout; skips without it."""
    return support.shared_path()


@pytest.hookimpl(tryfirst=True)  # Before those that -m leaves out are chosen.
def pytest_collection_modifyitems(items):
    """Marks the tests that were measured to be slow, and puts those of each rule side by side."""
    for item in items:
        if item.nodeid.removeprefix("tests/") in support.slow_names():
            item.add_marker(pytest.mark.slow)
    places = [i for i, item in enumerate(items) if item.path.name == "rules_test.py"]
    first: dict[str, int] = {}
    for i in places:
        first.setdefault(_case_of(items[i]), i)
    ordered = sorted((items[i] for i in places), key=lambda item: first[_case_of(item)])
    for i, item in zip(places, ordered, strict=True):
        items[i] = item


def _case_of(item):
    """The name of a test's case; of tests without cases their own."""
    return getattr(item, "callspec", None) and item.callspec.params["name"] or item.name


# Workers of pytest-xdist leave out tests by themselves, and their number is in no summary.


def pytest_deselected(items):
    config = items[0].config if items else None
    if hasattr(config, "workeroutput"):
        config.workeroutput["deselected"] = len(items) + config.workeroutput.get("deselected", 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Every worker leaves out the same tests: the summary shows their number once."""
    count = getattr(node, "workeroutput", {}).get("deselected", 0)
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    reporter.stats["deselected"] = [types.SimpleNamespace()] * count
