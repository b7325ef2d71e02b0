"""Logs for the tests of reports: small, random, and as hostile as a file can be."""

import json
import pathlib

import numpy as np

from tfcert import logs

# What a page must show as text, a figure must draw and a table must not execute.
HOSTILE = "<img src=x onerror=alert(1)>\"'&$\\x_{~^%#}\u202e\u200b\x07=1+1, \u4e2d\U0001f600 $"


def write_lines(path: pathlib.Path, columns, rows) -> pathlib.Path:
    """A log of values that are written as they print."""
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def smoothing_log(path: pathlib.Path, seed: int, size: int = 60, better: float = 0.0):
    """A log as other tools write it: radii of three digits, times with seconds' fractions."""
    draw = np.random.default_rng(seed)
    skill = np.random.default_rng(7).normal(0.5, 0.4, size) + better
    rows = []
    for idx in range(size):
        radius = max(0.0, skill[idx] + draw.normal(0, 0.1))
        label = idx % 5
        predict = label if radius > 0 else (-1 if idx % 2 else (label + 1) % 5)
        time = f"0:00:{draw.uniform(1, 9):09.6f}"
        rows.append((3 * idx, label, predict, f"{radius:.3}", int(predict == label), time))
    return write_lines(path, logs.SMOOTHING, rows)


def certify_log(path: pathlib.Path, x, y, eps=0.1, seed=0, radius=True, facts=None, model="m"):
    """A log of verdicts on these inputs with its facts and counterexamples."""
    draw = np.random.default_rng(seed)
    run = {
        "hashes": {"model": model, "data": "d", "region": "0" * 64, "settings": "1" * 64},
        "inputs": len(x),
        "settings": {"region": f'LpBall(eps={eps}, norm="inf", clip=(0.0, 1.0))', "method": ["a"]},
        **(facts or {}),
    }
    more = ["radius"] if radius else []
    with logs.Writer(path, "certify", run, {"commit": "c0ffee"}, more) as writer:
        for idx in range(len(x)):
            verdict = logs.VERDICTS[int(draw.choice(4, p=[0.55, 0.2, 0.1, 0.15]))]
            right = verdict != "misclassified"
            margin = draw.gamma(2.0) * (1 if verdict == "verified" else -1)
            if verdict == "falsified":
                change = 0.1 * draw.choice([-1.0, 1.0], x[idx].shape)
                writer.save_counterexample(idx, np.clip(x[idx] + change, 0, 1).astype("float32"))
            entry = {
                "idx": idx,
                "label": int(y[idx]),
                "predict": int(y[idx]) if right else int(y[idx]) + 1,
                "verdict": verdict,
                "margin": -np.inf if verdict == "unknown" and idx % 2 else margin,
                "method": {"verified": "ibp", "falsified": "pgd", "unknown": "crown"}.get(
                    verdict, "none"
                ),
                "seconds": draw.exponential(0.01),
                "radius": draw.uniform(eps, 2 * eps) if verdict == "verified" else 0.0,
            }
            writer.write([entry])
    return path


def images(count: int = 30, shape=(6, 5, 1), classes: int = 4):
    """Random pictures and labels."""
    draw = np.random.default_rng(1)
    return draw.uniform(0, 1, (count, *shape)).astype("float32"), np.arange(count) % classes


def run_folder(path: pathlib.Path, epochs: int = 5, name: str = "ibp", facts=None) -> pathlib.Path:
    """The folder of a training run."""
    path.mkdir(parents=True)
    steps = np.arange(1, epochs + 1) / epochs
    history = {
        "loss": 2 - steps,
        "natural": 1 - steps / 2,
        "robust": 1 - steps / 2,
        "natural_weight": 1 - steps,
        "eps": 0.1 * steps,
        "val_loss": 2 - steps,
        "val_accuracy": steps,
        "val_verified_accuracy": steps / 2,
        "seconds": 60 + 0 * steps,
    }
    lists = {key: values.tolist() for key, values in history.items()}
    (path / "history.json").write_text(json.dumps(lists))
    results = {
        "eps": 0.1,
        "objective": name,
        "samples": 500,
        "clean_error": 0.02,
        "attack": {"name": "PGD", "error": 0.0525, "seconds": 1.0},
        "methods": {"crown": {"error": 0.0875, "seconds": 2.0}},
    }
    (path / "results.json").write_text(json.dumps(results))
    run = {"flags": {"objective": name, "eps": 0.1}, "seed": 3, "commit": "c0ffee", **(facts or {})}
    (path / "run.json").write_text(json.dumps(run))
    return path
