"""Decides for every test image whether a classifier's answer is provably safe, and writes a log.

python trainers/certify.py --model_path=runs/ibp_0.1/model.keras --dataset=mnist --data_dir=data \\
    --eps=0.1 --out=runs/ibp_0.1/certify.tsv
python trainers/certify.py --model_path=runs/consistency/model.keras --dataset=mnist \\
    --data_dir=data --method=smoothing --sigma=0.5 --skip=20 --out=runs/consistency/smooth.tsv

The logic is in tfcert/cli/certify.py; an installed tfcert has the same program as
``tfcert-certify``.
"""

import tfcert_programs

if __name__ == "__main__":
    tfcert_programs.certify()
