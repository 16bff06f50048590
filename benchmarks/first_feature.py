"""Time a cold process up to its first feature: `vita encode`, and a script that does the same with the bare library."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import alternate, ratio, report
from families import FAMILIES
from PIL import Image
from safetensors.torch import load_file

GOAL = 1.1
BARE = """
import json, sys
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPVisionModel
weights, picture, out, layers = sys.argv[1:]
encoder = CLIPVisionModel.from_pretrained(
    weights, num_hidden_layers=int(layers) - 1, attn_implementation="sdpa", dtype=torch.float32, local_files_only=True
).eval()
processor = CLIPImageProcessorPil(**json.load(open(f"{weights}/preprocessor_config.json")))
pixels = processor.preprocess(Image.open(picture).convert("RGB"), return_tensors="pt")["pixel_values"]
with torch.inference_mode():
    features = encoder(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
save_file({picture: features.contiguous()}, out)
"""
PROCESSOR = {
    "do_resize": True, "size": {"shortest_edge": 336}, "resample": 3, "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336}, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Use two layers and 3 rounds.")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    layers, rounds = (2, 3) if arguments.quick else (arguments.layers, arguments.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        FAMILIES["clip"](layers=layers).save(folder)
        kind = {"image_processor_type": "CLIPImageProcessor"}
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        picture, config = folder / "picture.png", folder / "config.yaml"
        Image.effect_noise((640, 480), 64).convert("RGB").save(picture)
        named = folder / "named"
        named.mkdir()
        for name in ("config.json", "model.safetensors"):
            (named / name).symlink_to(folder / name)
        (named / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **kind}))
        stated = {"tower": {"type": "clip", "weights": str(named)}, "llm": {"weights": "none/needed"}, "device": "cpu"}
        config.write_text(json.dumps(stated))  # JSON is YAML
        sides = {
            "vita encode": ["-m", "vita_core", "encode", config, picture, "--out", folder / "ours.safetensors"],
            "library": ["-c", BARE, folder, picture, folder / "theirs.safetensors", layers],
        }

        def run(*arguments: Any) -> str:
            command = [sys.executable, "-W", "ignore", *map(str, arguments)]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

        for words in sides.values():
            run(*words)
        ours, theirs = (load_file(folder / f"{name}.safetensors")[str(picture)] for name in ("ours", "theirs"))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        times = alternate({name: lambda words=words: run(*words) for name, words in sides.items()}, rounds)
        phases = json.loads(run(*sides["vita encode"], "--timings", "--json"))["timings"]
    row = {
        "encoder": "CLIP-L/14-336", "layers": str(layers),
        "vita encode / library": ratio(times, "vita encode", "library"), "library, s": min(times["library"]),
    }  # fmt: skip
    report(
        "first_feature", f"cold import to first feature, goal: at most {GOAL}x of the bare library", list(row), [row],
        goal=GOAL, phases=phases, threads=torch.get_num_threads(), torch=torch.__version__,
    )  # fmt: skip
    for name, seconds in phases.items():
        print(f"{seconds:9.3f} s  {name}")


if __name__ == "__main__":
    main()
