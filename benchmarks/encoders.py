"""Time the encoders that towers `transformers`, `open_clip` and `timm` open, and measure their memory, compared with the bare
library: its whole model for the time, and the same model with every hidden state kept for the memory."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from common import alternate, clock_option, once, ratio, report
from families import Forward, assert_alike
from torch import Tensor
from watched import peak

from vita_core import build_tower

TIME, SHORTER, MEMORY = 1.02, 0.97, 0.6
PICTURES = 8
"""The number of pictures whose memory is measured."""
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "intermediate_size": 2816}
CHILD = """
import sys
from pathlib import Path
import torch
from encoders import ENCODERS, opened
side, name, folder, batch = *sys.argv[1:4], int(sys.argv[4])
encoder = ENCODERS[name]
run = opened(encoder, Path(folder)) if side == "ours" else encoder.library(Path(folder), True)
with torch.inference_mode():
    pixels = torch.rand(batch, 3, encoder.side, encoder.side)
    print("ready", flush=True)
    sys.stdin.readline()
    features = run(pixels)
print(features.numel() * features.element_size(), flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True)
class Encoder:
    """One encoder of published size.

    `side` is the size of its pictures in pixels. `save` writes random weights to a folder, by the library's own function.
    `library` opens the folder and returns a function from pixels to the last features (B, N, C); if its second argument is
    True, that function also keeps every hidden state. `tower` is the config of our tower that gives the same features.
    `blocks` is the number of blocks.
    """

    side: int
    save: Callable[[Path], None]
    library: Callable[[Path, bool], Forward]
    blocks: int
    tower: Mapping[str, Any] = field(default_factory=dict)


def of_transformers(
    name: str,
    *,
    side: int = 224,
    prefix: int = 1,
    normed: bool = True,
    layers: str = "num_hidden_layers",
    **config: Any,
) -> Encoder:
    """Return the encoder of transformers whose classes are ``{name}Config`` and ``{name}Model``."""
    made = getattr(transformers, f"{name}Config")(**config)
    model = getattr(transformers, f"{name}Model")

    def save(folder: Path) -> None:
        torch.manual_seed(0)
        model(made).save_pretrained(folder)

    def library(folder: Path, every: bool) -> Forward:
        encoder = model.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()

        def run(pixels: Tensor) -> Tensor:
            found = encoder(pixels, output_hidden_states=every)
            last: Tensor = found.last_hidden_state
            return last[:, prefix:] if last.ndim == 3 else last.flatten(2).transpose(1, 2)

        return run

    tower = {"type": "transformers", "norm": normed, "image_size": side}
    return Encoder(side, save, library, getattr(made, layers, 4), tower)


ENCODERS: dict[str, Encoder] = {
    "DINOv2-B/14": of_transformers("Dinov2", **BASE, image_size=518),
    "DINOv3-B/16": of_transformers("DINOv3ViT", prefix=5, **BASE, num_register_tokens=4),
    "ViT-B/16": of_transformers("ViT", **BASE),
    "BEiT-B/16": of_transformers("Beit", normed=False, **BASE, use_relative_position_bias=True),
    "DeiT-B/16": of_transformers("DeiT", prefix=2, **BASE),
    "AIMv2-L/14": of_transformers("Aimv2Vision", prefix=0, **LARGE),
    "MetaCLIP2-B/16": of_transformers("MetaClip2Vision", **BASE, patch_size=16, normed=False),
    "I-JEPA-B/16": of_transformers("IJepa", prefix=0, **BASE),
    "ConvNeXtV2-B": of_transformers(
        "ConvNextV2", prefix=0, normed=False, depths=[3, 3, 27, 3], hidden_sizes=[128, 256, 512, 1024]
    ),
}


def opened(encoder: Encoder, folder: Path, layer: int = -1) -> Forward:
    """Return our tower of an encoder, with random weights in `folder`."""
    return build_tower({**encoder.tower, "weights": str(folder), "select_layer": layer})


@torch.inference_mode()
def compare(name: str, folder: Path, batch: int, options: argparse.Namespace) -> dict[str, object]:
    """Return one row of the table: the time and memory of an encoder, divided by the library's."""
    encoder = ENCODERS[name]
    encoder.save(folder)
    sides = {"ours": opened(encoder, folder), "library": encoder.library(folder, False)}
    pixels = torch.rand(batch, 3, encoder.side, encoder.side)
    assert_alike(sides["ours"](pixels[:2]), sides["library"](pixels[:2]))
    if encoder.blocks >= 12:
        sides["one block less"] = opened(encoder, folder, -2)
    runs = {side: lambda run=run: run(pixels) for side, run in sides.items()}
    times = alternate(runs, options.rounds, options.clock)
    taken = {side: peak(CHILD, side, name, str(folder), str(PICTURES))[0] for side in ("ours", "library")}
    return {
        "encoder": name,
        "batch": batch,
        "time": ratio(times, "ours", "library"),
        "time, one block less": ratio(times, "one block less", "library") if encoder.blocks >= 12 else "",
        "memory": once(taken["ours"] / taken["library"]),
        "seconds": min(times["ours"]),
        "memory, MB": taken["ours"] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Measure one encoder with batch 2 and 2 rounds.")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument("--batch", type=int, default=PICTURES, help="Number of pictures whose time is measured.")
    parser.add_argument("--rounds", type=int, default=7)
    clock_option(parser)
    arguments = parser.parse_args()
    names, batch = arguments.encoders, arguments.batch
    if arguments.quick:
        names, batch, arguments.rounds = names[:1], 2, 2
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(name, Path(folder), batch, arguments))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    claim = (
        f"whole encoders, goals: time at most {TIME} ({SHORTER} with one block less), memory at most {MEMORY} of keeping "
        "every hidden state"
    )
    report(
        "encoders", claim, list(rows[0]), rows, threads=torch.get_num_threads(), clock=arguments.clock.__name__,
        torch=torch.__version__, transformers=transformers.__version__,
    )  # fmt: skip


if __name__ == "__main__":
    main()
