"""What tfcert is, what it needs and what gets installed."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "tfcert/version.py").read_text(), re.M)[1]

setuptools.setup(
    name="tfcert",
    version=VERSION,
    description="Sound, tight and fast output bounds for Keras models under input perturbations.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    keywords="keras tensorflow jax certified-robustness verification crown interval-bounds",
    python_requires=">=3.11,<3.14",
    # Not in build/: where upper and lower case are the same to the disk, that is Bazel's BUILD.
    options={"build": {"build_base": ".build"}},
    # tests/, trainers/ and benchmarks/ stay in the repository.
    packages=setuptools.find_packages(
        include=["tfcert", "tfcert.*", "tfcert_check", "tfcert_programs"]
    ),
    package_data={
        "tfcert": ["py.typed"],
        "tfcert.datasets": ["data/*"],
        "tfcert.reporting": ["page.css"],
    },
    # The lower limits are the versions that the tests run with. On Linux the plain
    # `tensorflow` wheel brings no CUDA libraries: those come with the `gpu` extra.
    install_requires=[
        "absl-py>=2.1",
        "keras>=3.15",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "pillow>=10",
        "tensorflow>=2.21",
        # [tf] brings tf-keras, which TFP imports even where only Keras 3 is used.
        "tensorflow-probability[tf]>=0.25",
    ],
    extras_require={
        "beam": ["apache-beam>=2.77"],
        "gpu": ["tensorflow[and-cuda]>=2.21"],
        "jax": ["jax>=0.10"],
        "onnx": ["onnx>=1.23"],
        "tensorboard": ["tensorboard>=2.20"],
        "test": [
            "apache-beam>=2.77",
            "hypothesis>=6.100",
            "jax>=0.10",
            "mpmath>=1.3",
            "onnx>=1.23",
            "pytest>=8.2",
            "pytest-xdist>=3.6",
            "scipy>=1.13",
            "tensorboard>=2.20",
        ],
        "verify": ["scipy>=1.13"],
        # The formatter's output differs between minor versions, hence the upper limit.
        "dev": ["mypy>=2.4,<3", "ruff>=0.17,<0.18"],
    },
    entry_points={
        "console_scripts": [
            "tfcert-attack=tfcert_programs:attack",
            "tfcert-certify=tfcert_programs:certify",
            "tfcert-certify-beam=tfcert_programs:certify_beam",
            "tfcert-check=tfcert_check.__main__:run",
            "tfcert-demo=tfcert_programs:demo",
            "tfcert-export=tfcert_programs:export",
            "tfcert-report=tfcert_programs:report",
            "tfcert-train=tfcert_programs:train",
            "tfcert-verify=tfcert_programs:verify",
        ]
    },
)
