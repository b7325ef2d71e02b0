"""Decides whether a network has a property: proves it, or finds an input that breaks it.

python trainers/verify.py network.onnx property.vnnlib --time_limit=60 --out=result.txt
python trainers/verify.py run/model.keras property.vnnlib --method=crown --float_safe

The logic is in tfcert/cli/verify.py; an installed tfcert has the same program as ``tfcert-verify``.
"""

import tfcert_programs

if __name__ == "__main__":
    tfcert_programs.verify()
