"""Makes a page, tables and figures of certification logs and training runs.

python trainers/report.py run.tsv --dataset=digits --out=report
python trainers/report.py gaussian.tsv consistency.tsv --radii=0,0.25,0.5 --out=comparison
python trainers/report.py runs/ibp runs/maar --out=training

The logic is in tfcert/cli/report.py; an installed tfcert has the same program as ``tfcert-report``.
"""

import tfcert_programs

if __name__ == "__main__":
    tfcert_programs.report()
