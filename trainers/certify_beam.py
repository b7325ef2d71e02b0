"""Certifies the inputs of many files on Apache Beam, on one machine or on a cluster.

python trainers/certify_beam.py --model_path=runs/ibp_0.1/model.keras --input='shards/*.npz' \\
    --eps=0.1 --out=logs -- --direct_num_workers=2 --direct_running_mode=multi_processing

The logic is in tfcert/cli/certify_beam.py; an installed tfcert has the same program as
``tfcert-certify-beam``.
"""

import tfcert_programs

if __name__ == "__main__":
    tfcert_programs.certify_beam()
