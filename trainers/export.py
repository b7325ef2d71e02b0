"""Writes a trained classifier and its certificates as one SavedModel, for TensorFlow Serving.

python trainers/export.py --model_path=runs/ibp_0.1/model.keras --eps=0.1 --method=ibp \\
    --out=serving/digits/1

The logic is in tfcert/cli/export.py; an installed tfcert has the same program as
``tfcert-export``.
"""

import tfcert_programs

if __name__ == "__main__":
    tfcert_programs.export()
