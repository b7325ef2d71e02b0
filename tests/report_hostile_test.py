"""Reports of hostile texts, paths and numbers: they are shown, and do nothing."""

import json
import math
import re
import sys

import hypothesis as hp
import hypothesis.strategies as hps
import numpy as np

from tests import report_support
from tests.page_support import check, write_page
from tests.report_support import HOSTILE
from tfcert.reporting import examples


def test_hostile_texts_are_shown_and_nothing_else(tmp_path):
    x, y = report_support.images()
    facts = {HOSTILE: HOSTILE, "nested": [{"<b>": [HOSTILE]}], "/etc/passwd": "../../etc/passwd"}
    name = HOSTILE.replace("/", "").replace("\x07", "")
    log = report_support.certify_log(tmp_path / f"{name}.tsv", x, y, facts=facts)
    lines = log.read_text(encoding="utf-8").replace("\tibp\t", f"\t{name}\t")
    log.write_text(lines, encoding="utf-8")
    folder = report_support.run_folder(tmp_path / "r", facts={"flags": {HOSTILE: "<script>"}})
    for file in ("history.json", "results.json"):
        text = (folder / file).read_text()
        text = text.replace('"natural"', json.dumps(name)).replace('"crown"', json.dumps(HOSTILE))
        (folder / file).write_text(text)
    text, files = write_page(
        tmp_path, log, folder, title=HOSTILE, inputs=examples.Inputs(x, y), names=[name, HOSTILE]
    )
    found = check(text)
    assert "<img src=x onerror=alert(1)>" in found.text  # Shown as text ...
    assert "<img src=x" not in text  # ... because it is escaped.
    assert "\u202e" not in text and "\x07" not in text and "\u200b" not in text
    assert all(re.fullmatch(r"[\w.]+", file) for file in files)
    sheet = (tmp_path / "out/methods.csv").read_text(encoding="utf-8")
    assert "<img" in sheet and "\u202e" not in sheet


def test_paths_in_files_are_never_opened(tmp_path, monkeypatch):
    """A log that names files, and facts that do, lead to no access but to the log's own files."""
    x, y = report_support.images()
    bait = tmp_path / "bait.npy"
    np.save(bait, x[0])
    log = report_support.certify_log(tmp_path / "a.tsv", x, y, facts={"counterexamples": str(bait)})
    text = log.read_text().replace("\tpgd\t", f"\t{bait}\t")
    log.write_text(text)
    opened = []
    hook_on = [True]

    def hook(event, arguments):
        if hook_on[0] and event == "open" and str(tmp_path) in str(arguments[0]):
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    try:
        write_page(tmp_path, log, inputs=examples.Inputs(x, y))
    finally:
        hook_on[0] = False
    assert opened and str(bait) not in opened
    own = (str(log), str(tmp_path / "out"), str(tmp_path / "a.tsv.counterexamples"))
    assert all(path.startswith(own) for path in opened)


# Without shrinking, which would take a page for each of its many steps.
@hp.settings(
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=3,
    phases=[hp.Phase.explicit, hp.Phase.generate],
)
@hp.example([(-1.7e308, 1.7e308), (1.7e308, 5e-324)], [math.nan, math.inf, -1e308, 1e308], "a$")
@hp.example([(-math.inf, 0.0)], [0.0], "_")
@hp.example([(1e9, 1.0), (1e9, 1.0)], [1.0], "loss")
@hp.given(
    hps.lists(
        hps.tuples(
            hps.floats(allow_nan=False, max_value=1e308), hps.floats(0, allow_infinity=False)
        ),
        min_size=1,
        max_size=4,
    ),
    hps.lists(hps.floats(), min_size=1, max_size=4),
    hps.text(max_size=10),
)
def test_any_numbers_make_a_page(tmp_path_factory, numbers, history, key):
    """The largest numbers, denormals, NaN and infinity in a history: a page, no crash."""
    folder = tmp_path_factory.mktemp("any")
    rows = [(i, 1, 1, "verified", m, "ibp", 0.1, r) for i, (m, r) in enumerate(numbers)]
    columns = ("idx", "label", "predict", "verdict", "margin", "method", "seconds", "radius")
    log = report_support.write_lines(folder / "a.tsv", columns, rows)
    run = report_support.run_folder(folder / "r")
    values = {"loss": history, "val_accuracy": history, "eps": history, key: history}
    (run / "history.json").write_text(json.dumps(values))
    text, _ = write_page(folder, log, run)
    check(text)
