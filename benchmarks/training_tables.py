"""The tables of training and smoothing that benchmarks/tables.py writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import table_parts

__all__ = [
    "adaptive_table",
    "distance_table",
    "distance_training_table",
    "epochs_table",
    "paired_table",
    "smoothing_table",
    "tightness_table",
    "training_table",
]


def training_table() -> str:
    """Milliseconds per training step, as multiples of a plain one, and the peer's."""
    path = table_parts.RESULTS / "training_cpu.json"
    report = json.loads(path.read_text())
    lines = [
        "| objective | batch | ms | samples/s | × plain | peer ms | peer × plain | times as fast |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    plain = {r["batch"]: r for r in report["rows"] if r["objective"] == "plain"}
    for row in report["rows"]:
        base, ours, peer = plain[row["batch"]], row["tfcert_ms"], row["peer_ms"]
        cells = [row["objective"], str(row["batch"]), f"{ours:.1f}"]
        cells += [f"{row['tfcert_samples_per_second']:.0f}", f"{ours / base['tfcert_ms']:.1f}"]
        if peer is None:
            cells += ["-", "-", "-"]
        else:
            cells += [f"{peer:.1f}", f"{peer / base['peer_ms']:.1f}", f"{peer / ours:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


def _times(row: Mapping[str, Any], side: str) -> str:
    milliseconds = row.get(f"{side}_ms")
    return "-" if milliseconds is None else f"{milliseconds / row['tfcert_ms']:.3g}"


def distance_table() -> str:
    """Milliseconds of the kernels of distances, and how many times as long others take."""
    reports = [
        json.loads((table_parts.RESULTS / f"distance_cpu_{name}.json").read_text())
        for name in ("784", "large")
    ]
    lines = [
        "| layer | batch | p | | ms | G terms/s | limit ÷ it | formula, × | `cdist`, × |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in [row for report in reports for row in report["rows"]]:
        size = f"{row['inputs']} → {row['units']}"
        p = "∞" if row["p"] == "inf" else f"{row['p']:g}"
        what = "both" if row["backward"] else "forward"
        rate = row["tfcert_gterms_per_s"]
        cells = [size, str(row["batch"]), p, what, f"{row['tfcert_ms']:.3g}", f"{rate:.3g}"]
        cells.append("" if row["backward"] else f"{row['limit_gterms_per_s'] / rate:.3g}")
        cells += [_times(row, "formula"), _times(row, "peer")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*map(table_parts.facts, reports), "", *lines])


def distance_training_table() -> str:
    """Accuracy of networks trained with fast powers and with the library's."""
    report = json.loads((table_parts.RESULTS / "distance_training.json").read_text())
    lines = [
        "| seed | powers | clean | certified | seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        cells = [str(row["seed"]), row["powers"]]
        cells += [f"{100 * row[name]:.2f} %" for name in ("clean", "certified")]
        lines.append("| " + " | ".join([*cells, f"{row['seconds']:.0f}"]) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


_SMOOTHING_SIDES = ("bare forward", "certify", "certify, bfloat16", "plain Keras loop")
_SMOOTHING_PEER = "PyTorch loop"


def smoothing_table() -> str:
    """Noisy samples a second, and images a minute with adaptive sampling."""
    report = json.loads((table_parts.RESULTS / "smoothing_cpu.json").read_text())
    sides = (*_SMOOTHING_SIDES, _SMOOTHING_PEER)
    lines = [f"| network | {' | '.join(sides)} |", "| --- " * (len(sides) + 1) + "|"]
    for row in report["rows"]:
        rates = row["samples_per_second"]
        cells = [row["network"]]
        for side in sides:
            share = rates.get(side, 0.0) / rates["bare forward"]
            cells.append(f"{rates[side]:,.0f} ({share:.0%})" if side in rates else "-")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| sampling | images a minute | × fixed | samples an image | ACR | certified |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    fixed = report["adaptive"][0]["images_a_minute"]
    for row in report["adaptive"]:
        rate = row["images_a_minute"]
        cells = [row["sampling"], f"{rate:.1f}", f"{rate / fixed:.2f}"]
        cells.append(f"{row['samples_an_image']:,.0f}")
        cells += [f"{row['acr']:.3f}" if "acr" in row else "-"]
        cells += [f"{row['certified']:.0%}" if "certified" in row else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


def adaptive_table() -> str:
    """Returns the savings and the costs of adaptive sampling on the kept runs."""
    report = json.loads((table_parts.RESULTS / "adaptive_sampling.json").read_text())
    precisions = list(report["rows"][0]["adaptive"])
    titles = ["run", "all votes agree", "ACR", *(f"precision {text}" for text in precisions)]
    lines = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    for row in report["rows"]:
        cells = [f"`{row['run']}`", f"{row['all_votes_agree']:.0%}", f"{row['acr']:.3f}"]
        for text in precisions:
            found = row["adaptive"][text]
            cells.append(f"{found['times_fewer_samples']:.1f} (−{found['acr_lost']:.1%})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


def tightness_table() -> str:
    """Gap and infeasibility of trained networks."""
    report = json.loads((table_parts.RESULTS / "tightness.json").read_text())
    lines = [
        "| run | base | gap | share of the clean margin | infeasibility | verified error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        cells = [f"`{row['run']}`", row["method"], f"{row['gap']:.4f}"]
        cells.append(f"{row['gap'] / row['clean_margin']:.1%}")
        cells += [f"{row['infeasibility']:.4f}", f"{row['verified_error']:.2%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


def _percent(found: Mapping[str, float], sign: str = "") -> str:
    return f"{100 * found['mean']:{sign}.2f} ± {100 * found['error']:.2f}"


def paired_table() -> str:
    """Certified training against its bases, seed by seed; a part for each file of results."""
    parts = []
    for path in sorted(table_parts.RESULTS.glob("paired_*.json")):
        report = json.loads(path.read_text())
        titles = ["method", "clean", "verified", "minus its base", "seconds a run"]
        lines = [
            table_parts.facts(report),
            "",
            "| " + " | ".join(titles) + " |",
            "| --- " * len(titles) + "|",
        ]
        for row in report["rows"]:
            less = [f"{base}: {_percent(found, '+')}" for base, found in row["less"].items()]
            cells = [row["method"], _percent(row["clean"]), _percent(row["verified"])]
            cells += ["; ".join(less), f"{row['seconds_a_run']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def epochs_table() -> str:
    """Returns the seconds that epochs take beyond their steps."""
    report = json.loads((table_parts.RESULTS / "epochs.json").read_text())
    lines = [
        "| fit of | steps | seconds of the steps | mean wait | longest wait | epochs that waited |",
        "| --- " * 6 + "|",
    ]
    for row in report["rows"]:
        cells = [row["fit"], str(row["steps"])]
        cells += [f"{row[name]:.2f}" for name in ("seconds_of_steps", "mean_wait", "longest_wait")]
        cells.append(f"{row['epochs_that_waited']} of {row['epochs']}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])
