"""Writes the tables of docs/benchmarks.md and other pages from benchmarks/results.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import table_parts
import training_tables
from absl import app

_DOCS = pathlib.Path(__file__).parents[1] / "docs"

_METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
_TITLES = dict(zip(_METHODS, ("IBP", "CROWN-IBP", "CROWN", "α-CROWN(20)"), strict=True))


def _cell(row: Mapping[str, Any]) -> str:
    ours, times = row["tfcert_median"], row["times_faster"]
    if ours is None:
        return "-"
    return f"{ours:.3g}" + (f" (×{times:.2g})" if times is not None else " (-)")


def bounds_table() -> str:
    """Milliseconds per call, and how many times as long the peer takes; a part for each file."""
    parts = []
    for path in sorted(table_parts.RESULTS.glob("bounds_*.json")):
        report = json.loads(path.read_text())
        rows = {(r["network"], r["batch"], r["method"]): r for r in report["rows"]}
        known = [method for method in _METHODS if any(key[2] == method for key in rows)]
        titles = ["network", "batch", *(_TITLES[method] for method in known)]
        lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join(["---"] * len(titles)) + " |"]
        for network, batch in dict.fromkeys(key[:2] for key in rows):
            cells = [_cell(rows[network, batch, method]) for method in known]
            lines.append(f"| {network} | {batch} | " + " | ".join(cells) + " |")
        parts.append("\n".join([table_parts.facts(report), "", *lines]))
    return "\n\n".join(parts)


def _beside(row: Mapping[str, Any], part: str, digits: str, factor: float = 1.0) -> str:
    """A number of tfcert's, and the peer's in brackets."""
    both = [row[part], row[f"peer_{part}"]]
    own, peer = ("-" if v is None else ("{:" + digits + "}").format(factor * v) for v in both)
    return f"{own} ({peer})"


def first_calls_table() -> str:
    """Seconds of first calls: tfcert, and the peer in brackets; and where those to compile go."""
    parts = []
    for path in sorted(table_parts.RESULTS.glob("first_calls*.json")):
        report = json.loads(path.read_text())
        lines = [
            table_parts.facts(report),
            "",
            "| network | method | first, s | compiling, s | of it tracing, optimising | later, ms "
            "| first of 4 inputs, s |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in report["rows"]:
            named = [row[name] for name in ("compiling", "tracing", "optimising", "other_batch")]
            compiling, tracing, optimising, other = (
                "-" if value is None else f"{value:.2f}" for value in named
            )
            lines.append(
                f"| {row['network']} | {row['method']} | {_beside(row, 'first', '.2f')} "
                f"| {compiling} | {tracing}, {optimising} "
                f"| {_beside(row, 'later', '.3g', 1e3)} | {other} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def xla_table() -> str:
    """Milliseconds of later calls without and with XLA, and the calls that pay for compiling."""
    report = json.loads((table_parts.RESULTS / "first_calls.json").read_text())
    lines = [
        table_parts.facts(report),
        "",
        "| network | method | start, s | later, ms | XLA: start, s | later, ms | × | pays after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        start, gain = row["first"] + row["compiling"], row["later"] - row["xla_later"]
        calls = max(0.0, (row["xla_start"] - start) / gain) if gain > 0 else None
        lines.append(
            f"| {row['network']} | {row['method']} | {start:.2f} | {1e3 * row['later']:.3g} "
            f"| {row['xla_start']:.2f} | {1e3 * row['xla_later']:.3g} "
            f"| {row['later'] / row['xla_later']:.2f} "
            f"| {'never' if calls is None else f'{calls:.0f} calls'} |"
        )
    return "\n".join(lines)


def serving_table() -> str:
    """Milliseconds per request, and as multiples of the plain model's."""
    report = json.loads((table_parts.RESULTS / "serving_cpu.json").read_text())
    lines = [
        "| network | method | batch | certified | plain ms | ms | × | XLA: plain ms | ms | × |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = {(r["network"], r["method"], r["batch"], r["xla"]): r for r in report["rows"]}
    for network, method, batch in dict.fromkeys(key[:3] for key in rows):
        cells = [network, method, str(batch)]
        for xla in (False, True):
            row = rows.get((network, method, batch, xla))
            if not xla and row:
                cells.append(f"{100 * row['certified']:.0f} %")
            names = ("plain_ms", "certified_ms", "times_plain")
            cells += [f"{row[name]:.3g}" for name in names] if row else ["-"] * 3
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


_VNNCOMP = {
    "certify": "`tfcert.certify`",
    "attack": "APGD",
    "ibp": "IBP",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "α-CROWN",
}


def vnncomp_table() -> str:
    """How many instances each method decides, and the median of its seconds."""
    report = json.loads((table_parts.RESULTS / "vnncomp.json").read_text())
    lines = [
        f"| benchmark | instances (sat / unsat / unknown) | {' | '.join(_VNNCOMP.values())} |",
        "| --- | --- " + "| --- " * len(_VNNCOMP) + "|",
    ]
    for benchmark in dict.fromkeys(row["benchmark"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["benchmark"] == benchmark]
        kinds = [
            sum(row["expected"] == kind for row in rows) for kind in ("sat", "unsat", "unknown")
        ]
        cells = [benchmark, f"{len(rows)} ({' / '.join(map(str, kinds))})"]
        for name in _VNNCOMP:
            tried = [row for row in rows if row[name] is not None]
            decided = sum(row[name] in ("sat", "unsat") for row in tried)
            seconds = statistics.median([row[f"{name}_seconds"] for row in tried] or [0.0])
            cells.append(f"{decided} ({seconds:.2f} s)" if tried else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


def verify_table() -> str:
    """How many instances are decided to the end, and what that takes."""
    report = json.loads((table_parts.RESULTS / "verify.json").read_text())
    lines = [
        "| benchmark | known answer | decided | seconds, median | slowest | most parts |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for benchmark in dict.fromkeys(row["benchmark"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["benchmark"] == benchmark]
        known = [row for row in rows if row["expected"] != "unknown"]
        decided = [row for row in rows if row["verify"] in ("sat", "unsat")]
        seconds = [row["verify_seconds"] for row in decided]
        lines.append(
            f"| {benchmark} | {len(known)} of {len(rows)} | {len(decided)} "
            f"| {statistics.median(seconds):.1f} | {max(seconds):.1f} "
            f"| {max(row['domains'] for row in decided):,} |"
        )
    return "\n".join([table_parts.facts(report), "", *lines])


def proofs_table() -> str:
    """Proofs of each benchmark: how many leaves, and what it takes to write and to check them."""
    parts = []
    for path in sorted(table_parts.RESULTS.glob("proofs_*.json")):
        parts.append(_proofs(json.loads(path.read_text())))
    return "\n\n".join(parts)


def _proofs(report: Mapping[str, Any]) -> str:
    lines = [
        "| benchmark | proofs | leaves | refused | kilobytes per proof, at most | searching and "
        "writing, s | checking, s | leaves per second |",
        "| --- " * 8 + "|",
    ]
    for benchmark in dict.fromkeys(row["benchmark"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["benchmark"] == benchmark]
        rows = [row for row in rows if "leaves" in row]
        leaves, prove, check = (
            sum(row[name] for row in rows)
            for name in ("leaves", "proving_seconds", "checking_seconds")
        )
        refused = sum(row["checker"] != "valid" for row in rows)
        size = max((row["bytes"] for row in rows), default=0) / 1e3
        lines.append(
            f"| {benchmark} | {len(rows)} | {leaves:,} | {refused} | {size:.0f} | {prove:.0f} "
            f"| {check:.0f} | {leaves / max(check, 1e-9):.0f} |"
        )
    return "\n".join([table_parts.facts(report), "", *lines])


def branching_table() -> str:
    """Parts bounded a second, beside the peer."""
    report = json.loads((table_parts.RESULTS / "branching.json").read_text())
    ways = {"crown": "one sweep", "optimised": "β-CROWN, ten steps"}
    lines = [
        "| instance | parts | bounds | tfcert, parts/s | auto_LiRPA, parts/s | mean margin |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        boxes = row["benchmark"] == "acasxu"
        way = "CROWN, all layers" if boxes else ways[row["method"]]
        means = [_margin(row, f"{side} mean") for side in ("tfcert", "auto_LiRPA")]
        speeds = [f"{row[side]:,.0f}" if side in row else "-" for side in ("tfcert", "auto_LiRPA")]
        lines.append(
            f"| {row['benchmark']} {row['property'].removesuffix('.vnnlib.gz')} | {row['parts']} "
            f"| {way} | {' | '.join(speeds)} | {' / '.join(means)} |"
        )
    return "\n".join([table_parts.facts(report), "", *lines])


def scale_table() -> str:
    """What the small network takes, and what the large one would."""
    report = json.loads((table_parts.RESULTS / "scale.json").read_text())
    facts = report["facts"]
    small, large = facts["small"], facts["large"]
    lines = [
        f"Measured: {small['macs'] / 1e6:.2f} million multiplications, {small['neurons']:,} ReLUs, "
        f"of which {100 * facts['unstable']:.1f} % have an open sign, {small['classes']} classes. "
        f"Extrapolated: {large['macs'] / 1e9:.2f} billion multiplications, "
        f"{large['neurons'] / 1e6:.1f} million ReLUs, the same share of them open, "
        f"{large['classes']} classes; {facts['inputs']:,} inputs.",
        "",
        "| method | measured, inputs/s | multiplications an input, large | hours for all |",
        "| --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        title = {"alpha-crown": "α-CROWN(20)", "ibp": "IBP"}.get(row["method"], "")
        if row["method"] == "smoothing":
            title = f"smoothing, n = {facts['samples']:,} (measured: {facts['measured_samples']:,})"
        cells = [title or row["method"].upper(), f"{row['inputs_per_second']:.3g}"]
        cells += [f"{1e9 * row['large_gmacs']:.1e}", f"{row['large_hours']:,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


def applications_table() -> str:
    """Seconds and memory of one call for a model of keras.applications."""
    report = json.loads((table_parts.RESULTS / "applications.json").read_text())
    lines = ["| model | method | seconds | GB | widest bound |", "| --- " * 5 + "|"]
    for row in report["rows"]:
        cells = [f"`{row['model']}`", row["method"]]
        if row["failure"]:
            cells += [row["failure"], "", ""]
        else:
            width = "infinite" if row["width"] is None else f"{row['width']:.3g}"
            cells += [f"{row['seconds']:.0f}", f"{row['memory'] / 2**30:.2f}", width]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(report), "", *lines])


def _margin(row: Mapping[str, Any], side: str) -> str:
    value = row.get(side)
    if value is None:
        return "none"
    return f"{value:.5f}" if abs(value) < 1 else f"{value:.3g}"


def sequences_table() -> str:
    """Margins of transformers and recurrent networks, beside the peer's."""
    names = ("sequences", "sequences_text")
    reports = [json.loads((table_parts.RESULTS / f"{name}.json").read_text()) for name in names]
    rows = {(r["network"], r["eps"], r["method"]): r for known in reports for r in known["rows"]}
    lines = [
        "| network | ε | IBP | peer | CROWN | peer | at an attack | without a change |",
        "| --- " * 8 + "|",
    ]
    for network, eps in dict.fromkeys(key[:2] for key in rows):
        ibp, crown = (rows[network, eps, method] for method in ("ibp", "crown"))
        cells = [f"`{network}`", f"{eps:.2g}"]
        cells += [_margin(row, side) for row in (ibp, crown) for side in ("tfcert", "auto_LiRPA")]
        cells += [_margin(crown, name) for name in ("attacked", "clean")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*map(table_parts.facts, reports), "", *lines])


def sequences_float64_table() -> str:
    """CROWN's margins in float32 and in float64, beside the peer's."""
    single, double = (
        json.loads((table_parts.RESULTS / f"{name}.json").read_text())
        for name in ("sequences", "sequences_float64")
    )
    known = {(row["network"], row["eps"], row["method"]): row for row in single["rows"]}
    lines = [
        "| network | ε | CROWN, float32 | peer | CROWN, float64 | peer |",
        "| --- " * 6 + "|",
    ]
    for row in double["rows"]:
        rows = (known[row["network"], row["eps"], row["method"]], row)
        cells = [f"`{row['network']}`", f"{row['eps']:.2g}"]
        cells += [f"{one[side]:.7f}" for one in rows for side in ("tfcert", "auto_LiRPA")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([table_parts.facts(double), "", *lines])


def trained_sequences_table() -> str:
    """Returns the results of certified training of a transformer and a GRU on digits."""
    reports = {
        network: json.loads((table_parts.RESULTS / f"{name}.json").read_text())
        for network, name in (("transformer", "transformer"), ("GRU", "recurrent"))
    }
    lines = [
        "| network | trained with | ε | digits | right | verified | by IBP | by CROWN-IBP "
        "| with a counterexample | open |",
        "| --- " * 10 + "|",
    ]
    for network, report in reports.items():
        for row in report["rows"]:
            verdicts = row["verdicts"]
            count = row["certified_digits"]
            trained = {"ibp": "IBP", "standard": "the clean loss"}[row["trained_with"]]
            cells = [network, trained, f"{row['eps']:g}", str(count)]
            cells.append(str(count - verdicts.get("misclassified", 0)))
            cells.append(str(verdicts.get("verified", 0)))
            cells += [str(row["verified_by"][method]) for method in ("ibp", "crown-ibp")]
            cells += [str(verdicts.get(name, 0)) for name in ("falsified", "unknown")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n\n".join([*map(table_parts.facts, reports.values()), "\n".join(lines)])


def attacks_table() -> str:
    """Accuracy under attack, a row for each region."""
    report = json.loads((table_parts.RESULTS / "attacks.json").read_text())
    rows = {(str(r["norm"]), r["eps"], r["attack"]): r["accuracy"] for r in report["rows"]}
    names = list(dict.fromkeys(r["attack"] for r in report["rows"]))
    lines = ["| region | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for norm, eps in dict.fromkeys(key[:2] for key in rows):
        found = [rows.get((norm, eps, name)) for name in names]
        cells = ["-" if share is None else f"{100 * share:.1f}" for share in found]
        lines.append(f"| norm {norm}, ε = {eps} | " + " | ".join(cells) + " |")
    clean = 100 * report["rows"][0]["clean"]
    return "\n".join([table_parts.facts(report), f"Clean: {clean:.1f}.", "", *lines])


TABLES = {
    "first_calls": first_calls_table,
    "xla": xla_table,
    "applications": applications_table,
    "attacks": attacks_table,
    "bounds": bounds_table,
    "training": training_tables.training_table,
    "serving": serving_table,
    "vnncomp": vnncomp_table,
    "verify": verify_table,
    "proofs": proofs_table,
    "branching": branching_table,
    "scale": scale_table,
    "distance": training_tables.distance_table,
    "distance_training": training_tables.distance_training_table,
    "smoothing": training_tables.smoothing_table,
    "adaptive": training_tables.adaptive_table,
    "tightness": training_tables.tightness_table,
    "epochs": training_tables.epochs_table,
    "paired": training_tables.paired_table,
    "sequences": sequences_table,
    "sequences_float64": sequences_float64_table,
    "trained_sequences": trained_sequences_table,
}
PAGES = tuple(
    _DOCS / f"{name}.md"
    for name in (
        *(
            "attacks",
            "benchmarks",
            "layers",
            "proofs",
            "scale",
            "sequences",
            "paper_tightness",
            "results",
        ),
    )
)


def page(text: str) -> str:
    """A page with all its tables written anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"
        if begin not in text:
            continue
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{make()}\n\n{end}{rest.split(end)[1]}"
    return text


def main(argv: Sequence[str]) -> None:
    """Writes the pages."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    for path in PAGES:
        path.write_text(page(path.read_text()))


if __name__ == "__main__":
    app.run(main)
