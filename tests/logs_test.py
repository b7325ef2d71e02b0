"""Logs: what is written is read back, and nothing read is trusted."""

import os

import hypothesis as hp
import numpy as np
import pytest
from hypothesis import strategies as hps

from tests.logs_support import HEADER, RUN, certified, smoothed
from tfcert import logs
from tfcert.logs import reading, writing

SMOOTHING_HEADER = "\t".join(logs.SMOOTHING) + "\n"


numbers = hps.floats(allow_nan=False, allow_infinity=False)
entries_of = {
    "certify": hps.fixed_dictionaries(
        {
            "label": hps.integers(-1, 10**6),
            "predict": hps.integers(-1, 10**6),
            "verdict": hps.sampled_from(logs.VERDICTS),
            "margin": numbers | hps.just(-np.inf),
            "method": hps.text(
                hps.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"])
            ),
            "seconds": hps.floats(0, 1e9),
        }
    ),
    "smoothing": hps.fixed_dictionaries(
        {
            "label": hps.integers(0, 9),
            "predict": hps.integers(-1, 9),
            "radius": hps.floats(0, 1e6),
            "correct": hps.booleans(),
            "time": hps.integers(0, 10**12).map(lambda micro: micro / 1e6),
        }
    ),
}


@pytest.mark.parametrize("kind", ["certify", "smoothing"])
def test_what_is_written_is_read(kind, tmp_path_factory):
    @hp.settings(derandomize=True, deadline=None, database=None, max_examples=30)
    @hp.given(values=hps.lists(entries_of[kind], max_size=5), pieces=hps.integers(1, 3))
    def check(values, pieces):
        path = tmp_path_factory.mktemp("logs") / "run.tsv"
        written = [{"idx": 7 * i, **value} for i, value in enumerate(values)]
        for start in range(0, max(len(written), 1), pieces):
            with logs.Writer(path, kind, RUN) as log:
                assert log.entries == written[:start]
                log.write(written[start : start + pieces])
        log = logs.read(path)
        assert (log.kind, log.cut, log.size) == (kind, "", path.stat().st_size)
        assert log.entries == written

    check()


def test_lines_are_those_of_this_fields_scripts(tmp_path):
    with logs.Writer(tmp_path / "s.tsv", "smoothing", RUN) as log:
        log.write([smoothed(20), smoothed(40, predict=1, radius=0.7315, correct=True, time=3661)])
    assert (tmp_path / "s.tsv").read_text() == (
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
        "20\t1\t-1\t0.0\t0\t0:01:01.500000\n"
        "40\t1\t1\t0.7315\t1\t1:01:01.000000\n"
    )


def test_reads_logs_of_other_tools(tmp_path):
    text = (
        SMOOTHING_HEADER + "0\t7\t7\t0.803\t1\t0:00:04.1\r\n20\t9\t9\t0.5\tTrue\t2 days, 0:00:05\n"
    )
    (tmp_path / "other").write_bytes(text.encode())
    log = logs.read(tmp_path / "other")
    assert log.facts is None
    assert log.column("radius").tolist() == [0.803, 0.5]
    assert log.column("correct").tolist() == [True, True]
    assert log.column("time").tolist() == [4.1, 2 * 86400 + 5.0]
    with pytest.raises(ValueError, match="`name` must be one of .*Received: name='verdict'"):
        log.column("verdict")


def test_reads_what_editors_and_spreadsheets_add(tmp_path):
    """A mark before UTF-8 text, empty lines at the end, times in seconds."""
    path = tmp_path / "other"
    path.write_bytes(
        b"\xef\xbb\xbf" + SMOOTHING_HEADER.encode() + b"0\t7\t7\t0.8\t1\t12.5\n\r\n \n"
    )
    log = logs.read(path)
    assert log.column("time").tolist() == [12.5]
    assert path.read_bytes()[log.size :] == b"\r\n \n"
    path.write_text(SMOOTHING_HEADER + "0\t7\t7\t0.8\t1\t1\n\n2\t7\t7\t0.8\t1\t1\n")
    with pytest.raises(
        ValueError, match=r"other:3: the line must have 6 columns"
    ):  # Not in the middle.
        logs.read(path)


def test_empty_lines_at_the_end_are_written_over(tmp_path):
    path = tmp_path / "run.tsv"
    with logs.Writer(path, "certify", RUN) as log:
        log.write([certified(0), certified(1)])
    whole = path.read_bytes()
    path.write_bytes(b"\n".join(whole.split(b"\n")[:2]) + b"\n\n\n")
    with logs.Writer(path, "certify", RUN) as log:
        log.write([certified(1)])
    assert path.read_bytes() == whole


def test_further_columns_are_kept(tmp_path):
    with logs.Writer(tmp_path / "a", "certify", RUN, more=["radius", "note"]) as log:
        log.write([certified(0, radius=0.25, note="<b>")])
    log = logs.read(tmp_path / "a")
    assert log.columns == (*logs.CERTIFY, "radius", "note")
    assert log.entries[0]["radius"] == 0.25 and log.entries[0]["note"] == "<b>"


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_cut_last_line_was_not_written(cut, tmp_path):
    path = tmp_path / "run.tsv"
    with logs.Writer(path, "certify", RUN) as log:
        log.write([certified(0), certified(1)])
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    if cut >= len(last):
        cut = len(whole) - 3 - cut % 20  # Within the header.
    path.write_bytes(whole[:-cut])
    with logs.Writer(path, "certify", RUN) as log:
        left = [entry["idx"] for entry in log.entries]
        assert left in ([0], [])
        log.write([certified(idx) for idx in (0, 1) if idx not in log.done])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0\t1\t1\tverified\t1.0\tibp", "the line must have 7 columns. Received: 6"),
        ("0\t1\t1\tverified\t1.0\tibp\t0.1\t", "the line must have 7 columns. Received: 8"),
        ("x\t1\t1\tverified\t1.0\tibp\t0.1", "idx must be an integer >= 0. Received: 'x'"),
        ("-1\t1\t1\tverified\t1.0\tibp\t0.1", "idx must be an integer >= 0"),
        ("1_0\t1\t1\tverified\t1.0\tibp\t0.1", "idx must be an integer"),
        ("٣\t1\t1\tverified\t1.0\tibp\t0.1", "idx must be an integer"),
        ("9" * 5000 + "\t1\t1\tverified\t1.0\tibp\t0.1", "idx must be an integer"),
        ("../../etc/passwd\t1\t1\tfalsified\t1.0\tibp\t0.1", "idx must be an integer"),
        ("0\t1\t1\tsafe\t1.0\tibp\t0.1", "verdict must be one of verified, .*Received: 'safe'"),
        ("0\t1\t1\tverified\tnan\tibp\t0.1", "margin must be a number"),
        ("0\t1\t1\tverified\tinf\tibp\t0.1", "margin must be a number"),
        ("0\t1\t1\tverified\t1e9999\tibp\t0.1", "margin must be a number"),
        ("0\t1\t1\tverified\t1.0\tibp\t-0.1", "seconds must be a number >= 0"),
        ("5\t1\t1\tverified\t1.0\tibp\t0.1", "idx 5 is already in line 2"),
        ("", "the line must have 7 columns. Received: 1"),
        (b"0\t1\t1\tverified\t1.0\t\xff\t0.1", "text must be UTF-8"),
        ("0\t1\t1\tverified\t1.0\t" + "a" * 70000 + "\t0.1", "a line of 700.. bytes"),
    ],
)
def test_malformed_lines_are_named(line, message, tmp_path):
    good = b"5\t1\t1\tverified\t1.0\tibp\t0.1\n"
    line = line if isinstance(line, bytes) else line.encode()
    path = tmp_path / "run.tsv"
    path.write_bytes(HEADER.encode() + good + line + b"\n" + good.replace(b"5", b"6", 1))
    with pytest.raises(ValueError, match=rf"Malformed lines:\n.*run.tsv:3: .*{message}") as error:
        logs.read(path)
    assert len(str(error.value)) < 1000


def test_lists_malformed_lines(tmp_path):
    (tmp_path / "a").write_text(SMOOTHING_HEADER + "0\t1\t1\t0.5\t1\t1:00:00\n" + 30 * "bad\n")
    with pytest.raises(ValueError, match=r"a:3: (.|\n)*a:22: .*\nand 10 more"):
        logs.read(tmp_path / "a")
    for field, message in (("2", "correct must be 0 or 1"), ("0:61:00", "time must be h:mm:ss")):
        line = "0\t1\t1\t0.5\t" + (f"{field}\t0:00:01" if len(field) == 1 else f"1\t{field}")
        (tmp_path / "a").write_text(SMOOTHING_HEADER + line + "\n")
        with pytest.raises(ValueError, match=message):
            logs.read(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "idx\tlab", "a\tb\n", "\n", HEADER.replace("\t", " ")])
def test_refuses_what_is_no_log(text, tmp_path):
    (tmp_path / "a").write_text(text)
    with pytest.raises(ValueError, match=r"a:1: (the header is missing|the header must begin)"):
        logs.read(tmp_path / "a")


def test_refuses_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.tsv"):
        logs.read(tmp_path / "none.tsv")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):  # A pipe would be waited for.
        with pytest.raises(ValueError, match="must be a file"):
            logs.read(path)


_SEEDS = [HEADER, SMOOTHING_HEADER, "0\t1\t1\t0.5\t1\t0:00:01\n", "0\t1\t1\tverified\t1\ta\t0\n"]


def test_reader_survives_anything(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "log"
    piece = hps.sampled_from([s.encode() for s in _SEEDS]) | hps.binary(max_size=20)

    @hp.settings(derandomize=True, deadline=None, database=None, max_examples=400)
    @hp.given(hps.lists(piece, max_size=6), hps.sampled_from([b"", *[s.encode() for s in _SEEDS]]))
    def check(pieces, first):
        path.write_bytes(first + b"".join(pieces))
        try:
            log = logs.read(path)
        except ValueError as error:
            assert str(path) in str(error)
            return
        assert log.kind in ("certify", "smoothing")
        for entry in log.entries:  # What is accepted can be written again as it is.
            line = "\t".join(writing._format(name, entry[name]) for name in log.columns).encode()
            assert reading.parse_line(line, log.columns, log.kind) == entry

    check()


def test_facts_are_an_object_or_an_error(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "run.tsv"
    deep = hps.integers(1, 10**5).map(lambda depth: b"[" * depth)

    @hp.settings(derandomize=True, deadline=None, database=None, max_examples=200)
    @hp.given(hps.binary(max_size=200) | hps.text(max_size=50).map(str.encode) | deep)
    def check(content):
        logs.facts_path(path).write_bytes(content)
        try:
            assert isinstance(logs.read_facts(path), dict)
        except ValueError as error:
            assert "run.tsv.json must be a JSON object" in str(error)

    check()


class _Runs:
    def __reduce__(self):
        return (os.mkdir, ("/tmp/tfcert_was_here",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(117)
        + b"\n",
    ],
)  # fmt: skip
def test_counterexamples_are_plain_arrays(content, tmp_path):
    path = logs.counterexample_path(tmp_path / "run.tsv", 5)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"5.npy must hold an array of floats"):
        logs.read_counterexample(tmp_path / "run.tsv", 5)


def test_pickled_counterexamples_do_not_run(tmp_path):
    path = logs.counterexample_path(tmp_path / "run.tsv", 0)
    path.parent.mkdir()
    for array in (np.array([_Runs()], object), np.array(["a"]), np.array([1])):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(ValueError, match=r"0.npy must hold an array of floats"):
            logs.read_counterexample(tmp_path / "run.tsv", 0)
    assert not os.path.exists("/tmp/tfcert_was_here")


def test_counterexamples_come_back(tmp_path):
    point = np.float32([[1.5, np.nextafter(np.float32(2), 3)]])
    with logs.Writer(tmp_path / "run.tsv", "certify", RUN) as log:
        log.save_counterexample(3, point)
        log.save_counterexample(3, point)
    found = logs.read_counterexample(tmp_path / "run.tsv", 3)
    assert found.dtype == np.float32 and (found == point).all()
    assert logs.read_counterexample(tmp_path / "run.tsv", 4) is None
    assert [p.name for p in (tmp_path / "run.tsv.counterexamples").iterdir()] == ["3.npy"]
