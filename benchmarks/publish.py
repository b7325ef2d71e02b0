"""Publishes the network of a run: the file, its card and certificates, in the folder pretrained/.

    python benchmarks/publish.py --run=runs/mnist_0.3_sabr@cnn-0 --name=mnist_0.3 --data_dir=data
    python benchmarks/publish.py        # only writes the tables of docs/pretrained.md anew

The card (NAME.json) holds what the run's run.json, results.json and complete.json say. The
certificates (NAME.certificates.json) are the verdicts of CROWN on the first 100 test images, which
tests/pretrained_test.py computes again. A network of the same name is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shlex
import shutil
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

_RUN = flags.DEFINE_string("run", None, "Folder of a finished run of trainers/train.py.")
_NAME = flags.DEFINE_string("name", None, "Name of the published network: data set and radius.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder with the file of the data set.")

_ROOT = pathlib.Path(__file__).parents[1]
FOLDER = _ROOT / "pretrained"
_PAGE = _ROOT / "docs" / "pretrained.md"
_BEGIN, _END = "<!-- tables: benchmarks/publish.py -->", "<!-- end of tables -->"
LARGEST = 2_500_000  # Bytes of a file.
IMAGES, METHOD = 100, "crown"
# On another processor a margin differs by less; a verdict must not depend on such a difference.
_CLOSE = 1e-4
_TITLES = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "complete": "complete"}


def training_command(settings: Mapping[str, Any], name: str) -> str:
    """The command that trains the network again, from the flags of its run."""
    words = ["python", "trainers/train.py"]
    for flag, value in {**settings, "data_dir": "data", "out": f"runs/{name}"}.items():
        if flag in ("resume", "verbose") or value is None or value is False or value == []:
            continue
        if value is True:
            words.append(f"--{flag}")
        elif flag == "option":
            words += [f"--option={option}" for option in value]
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            words.append(f"--{flag}={text}")
    return shlex.join(words)


def card(run: pathlib.Path, file: pathlib.Path) -> dict[str, Any]:
    """The card of a published network: its data, errors, command and checksum.

    Args:
        run: The folder of the run.
        file: The published file.
    """
    facts, results = (
        json.loads((run / name).read_text(encoding="utf-8"))
        for name in ("run.json", "results.json")
    )
    settings = facts["flags"]
    verified = {name: known["error"] for name, known in results["methods"].items()}
    undecided = None
    if (run / "complete.json").exists():
        searched = json.loads((run / "complete.json").read_text(encoding="utf-8"))
        if searched["samples"] == results["samples"]:
            verified["complete"], undecided = searched["error"], searched["undecided"]
    content = file.read_bytes()
    return {
        "name": file.stem,
        "data": settings["dataset"],
        "eps": results["eps"],
        "norm": settings["norm"],
        "network": settings["model"],
        "parameters": facts["parameters"],
        "objective": settings["objective"],
        "test_images": results["samples"],
        "clean_accuracy": 1.0 - results["clean_error"],
        "pgd_accuracy": 1.0 - results["attack"]["error"],
        "pgd_steps": settings["attack_steps"],
        "certified_accuracy": {name: 1.0 - error for name, error in verified.items()},
        "undecided": undecided,
        "run": run.name,
        "command": training_command(settings, run.name),
        "commit": facts["commit"],
        "versions": facts["versions"],
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def certificates(model: Any, x: np.ndarray, y: np.ndarray, eps: float, norm: Any) -> dict[str, Any]:
    """The verdicts of the method on the first images, by their numbers."""
    import tfcert

    region = tfcert.LpBall(eps, norm, clip=(0.0, 1.0))
    found = tfcert.certify(
        model, x[:IMAGES], y[:IMAGES], region, METHOD, attack=None, batch_size=IMAGES
    )
    close = np.flatnonzero(np.abs(found.margin) < _CLOSE)
    if close.size:
        raise ValueError(
            f"The margins of the first {IMAGES} images must not lie within {_CLOSE:g} of 0, or "
            "another processor may come to another verdict. Publish another run. Received: "
            f"{dict(zip(close.tolist(), found.margin[close].tolist(), strict=True))}."
        )
    verdicts = ("verified", "unknown", "misclassified")
    numbers = {name: np.flatnonzero(found.verdict == name).tolist() for name in verdicts}
    return {"eps": eps, "images": len(found.verdict), "method": METHOD, **numbers}


def publish(run: pathlib.Path, name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Writes the file, the card, the certificates and the checksum of a run's network.

    Args:
        run: The folder of the run.
        name: The name of the network.
        x: Test images.
        y: Their labels.
    """
    from tfcert import files

    model = files.load_model(run / "model.keras")  # Not compiled.
    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place) / f"{name}.keras"
        model.save(file)  # Without the optimizer, which would make the file three times as large.
        if file.stat().st_size > LARGEST:
            raise ValueError(
                f"A published file may have {LARGEST} bytes. Received: {file.stat().st_size} bytes "
                f"for the network of {run}."
            )
        about = card(run, file)
        known = certificates(files.load_model(file), x, y, about["eps"], about["norm"])
        FOLDER.mkdir(exist_ok=True)
        shutil.copy(file, FOLDER / file.name)
    files.write_json(FOLDER / f"{name}.certificates.json", known)
    files.write_json(FOLDER / f"{name}.json", about)
    index = FOLDER / "index.json"
    others = files.read_json(index) if index.exists() else {}
    files.write_json(index, dict(sorted({**others, name: about["sha256"]}.items())))


def cards() -> list[dict[str, Any]]:
    """The cards of all published networks, by their names."""
    names = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return [json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in names]


def tables() -> str:
    """The part of the page that is written by this program."""
    lines = [
        "| name | data | ε | network | parameters | objective | clean | PGD | certified | by "
        "| file |",
        "| --- " * 11 + "|",
    ]
    for known in cards():
        best = max(known["certified_accuracy"], key=known["certified_accuracy"].__getitem__)
        shares = [known["clean_accuracy"], known["pgd_accuracy"], known["certified_accuracy"][best]]
        cells = [f"`{known['name']}`", known["data"], f"{known['eps']:g}", known["network"]]
        cells += [f"{known['parameters']:,}", known["objective"]]
        cells += [f"{100 * share:.2f} %" for share in shares]
        cells += [_TITLES.get(best, best), f"{known['bytes'] / 1e6:.2f} MB"]
        lines.append("| " + " | ".join(cells) + " |")
    for known in cards():
        lines += [
            "",
            f"`{known['name']}` has the SHA-256 `{known['sha256']}`. The command at commit",
        ]
        command = textwrap.wrap(
            known["command"], 88, break_on_hyphens=False, break_long_words=False
        )
        lines += [f"{known['commit'][:12]} was", "", "```sh"]
        lines += [" \\\n    ".join(command), "```"]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Publishes the run, if one is given, and writes the tables."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if (_RUN.value is None) != (_NAME.value is None):
        raise app.UsageError("--run and --name go together.")
    if _RUN.value is not None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from tfcert import datasets

        run = pathlib.Path(_RUN.value)
        settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["flags"]
        _, (x, y) = datasets.load(settings["dataset"], _DATA_DIR.value)
        publish(run, _NAME.value, x, y)
    before, rest = _PAGE.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{tables()}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
