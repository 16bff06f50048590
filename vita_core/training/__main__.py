"""``torchrun --nproc-per-node N -m vita_core.training CONFIG --out DIR`` is ``vita train`` in several processes."""

import runpy
import sys

sys.argv[1:1] = ["train"]
# a program runs another one: this package imports nothing from the cli
runpy.run_module("vita_core", run_name="__main__")
