"""Trains a small digit classifier, certifies it, and writes figures and a page.

python trainers/demo.py --out=demo_output --seed=0

The logic is in tfcert/cli/demo.py; an installed tfcert has the same program as ``tfcert-demo``.
"""

import tfcert_programs

if __name__ == "__main__":
    tfcert_programs.demo()
