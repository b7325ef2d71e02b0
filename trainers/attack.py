"""Attacks a trained classifier, and prints the share of answers that stay right.

python trainers/attack.py --model_path=runs/ibp_0.1/model.keras --dataset=mnist --data_dir=data \\
    --eps=0.1 --attack=apgd --steps=100 --restarts=5 --out=runs/ibp_0.1/attack.json

The logic is in tfcert/cli/attack.py; an installed tfcert has the same program as
``tfcert-attack``.
"""

import tfcert_programs

if __name__ == "__main__":
    tfcert_programs.attack()
