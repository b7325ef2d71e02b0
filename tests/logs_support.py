"""A run and its lines, for the tests of logs."""

from tfcert import logs

RUN = {"hashes": {"model": "m", "data": "d"}, "settings": {"eps": 0.1}}
HEADER = "\t".join(logs.CERTIFY) + "\n"


def certified(idx, **changed):
    values = {
        "idx": idx,
        "label": 3,
        "predict": 3,
        "verdict": "verified",
        "margin": 0.1 + idx,
        "method": "ibp",
        "seconds": 0.25,
    }
    return {**values, **changed}


def smoothed(idx, **changed):
    values = {"idx": idx, "label": 1, "predict": -1, "radius": 0.0, "correct": False, "time": 61.5}
    return {**values, **changed}
