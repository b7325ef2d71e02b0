"""Lines and seconds that common mistakes at the command line cost.

python benchmarks/mistakes.py

Starts each command below in an empty folder, and prints a table: the mistake, the exit code, the
lines on the terminal, the seconds, and the last line that is shown.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time

_ROOT = pathlib.Path(__file__).resolve().parent.parent
# What went wrong, the program, its arguments.
MISTAKES = (
    ("asks for help", "train", ("--help",)),
    ("leaves --eps out", "train", ("--objective=ibp", "--out=x")),
    ("leaves --out out", "train", ("--eps=0.1",)),
    ("abbreviates a flag", "train", ("--eps=0.1", "--lr=0.1", "--out=x")),
    ("misspells a choice", "train", ("--objective=ipb", "--eps=0.1", "--out=x")),
    ("misspells an option", "train", ("--eps=0.1", "--option=natural_wait=1", "--out=x")),
    ("writes to a folder in use", "train", ("--eps=0.1", "--out=full")),
    ("misspells a data set", "train", ("--dataset=minst", "--eps=0.1", "--out=x")),
    ("forgets the scale of pixels", "train", ("--eps=8", "--out=x")),
    ("names no model file", "certify", ("--model_path=no.keras", "--eps=0.1", "--out=x")),
    ("names no such method", "certify", ("--model_path=m.keras", "--method=crwon", "--out=x")),
    ("names no model file", "attack", ("--model_path=no.keras", "--eps=0.1", "--out=x")),
)


def main() -> None:
    """Starts every command and prints the table."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    print("| Mistake | Program | Exit code | Lines | Seconds | Last line |")
    print("| --- | --- | --- | --- | --- | --- |")
    for mistake, program, arguments in MISTAKES:
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "full").mkdir()
            pathlib.Path(folder, "full", "notes.txt").touch()
            pathlib.Path(folder, "m.keras").touch()
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, str(_ROOT / "trainers" / f"{program}.py"), *arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            seconds = time.perf_counter() - begin
        lines = done.stdout.splitlines()
        print(
            f"| {mistake} | {program} | {done.returncode} | {len(lines)} | {seconds:.1f} "
            f"| {lines[-1][:110] if lines else ''} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
