"""Trains a certifiable classifier and measures it.

python trainers/train.py --objective=ibp --dataset=mnist --data_dir=data --model=dm_small \\
    --eps=0.1 --train_eps=0.2 --ramp=1,10 --epochs=25 --out=runs/ibp_0.1
python trainers/train.py --flagfile=trainers/recipes/mnist_0.1_ibp.flags --data_dir=data \\
    --out=runs/mnist_0.1_ibp

The logic is in tfcert/cli/train.py; an installed tfcert has the same program as ``tfcert-train``.
"""

import tfcert_programs

if __name__ == "__main__":
    tfcert_programs.train()
