"""Where setuptools builds; all else about the package is in pyproject.toml."""

import setuptools

# Not in build/: where upper and lower case are the same to the disk, that is Bazel's BUILD.
setuptools.setup(options={"build": {"build_base": ".build"}})
