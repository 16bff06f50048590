"""``torchrun --nproc-per-node N -m vita_core.training CONFIG --out DIR`` is ``vita train`` in several processes."""

import sys

from vita_core.cli import main

sys.argv[1:1] = ["train"]
main()
