"""Time several encoders as one tower, compared with its parts run apart, and measure their memory. Time every reduction, and the
projectors that change the number of tokens, compared with CLIP-L/14-336 and with their multiply-accumulates."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from common import alternate, clock_option, once, ratio, report
from families import FAMILIES
from fewer_tokens import behind, inside, row
from torch import Tensor
from watched import held

from vita_core import build_tower
from vita_core.pixels.fused import FusedPixels
from vita_core.planning.towers import resolve_tower

TIME, MEMORY = 1.03, 1.0
CLIP, SIGLIP, DINO = "CLIP-L/14-336", "SigLIP-so400m-384", "DINOv2-L/14-336"
PAIRS = [(CLIP, DINO, combine) for combine in ("channel", "sum", "sequence", "interleave")] + [
    (SIGLIP, DINO, "channel")
]


def saved(name: str, layers: int, folder: Path) -> dict[str, Any]:
    """Save an encoder of published width with random weights, unless it is there. Return its section of a config."""
    place = folder / f"{name.partition('-')[0]}-{layers}"
    if not place.exists():
        place.mkdir()
        if name == DINO:
            torch.manual_seed(0)
            sizes = {"hidden_size": 1024, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}
            config = transformers.Dinov2Config(**sizes, num_hidden_layers=layers)
            transformers.Dinov2Model(config).save_pretrained(place)
        else:
            FAMILIES["clip" if name == CLIP else "siglip"](layers=layers).save(place)
    return {"weights": str(place), "select_layer": -2}


def side(part: Mapping[str, Any]) -> int:
    """Return the side of a tower's pictures in pixels."""
    return int(resolve_tower(part).geometry.input_size[0])


def fused(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the time of each pair of encoders as one tower, divided by the time of its parts run apart."""
    for first, second, combine in options.pairs:
        parts = [saved(name, options.layers, folder) for name in (first, second)]
        apart, whole = [build_tower(part) for part in parts], build_tower({"towers": parts, "combine": combine})
        pixels = FusedPixels([torch.rand(options.batch, 3, side(part), side(part)) for part in parts])

        def separate(apart: list[Any] = apart, pixels: FusedPixels = pixels) -> list[Tensor]:
            return [tower(given) for tower, given in zip(apart, pixels.parts, strict=True)]

        if combine == "channel" and first == CLIP:  # no grid is resized
            assert torch.equal(whole(pixels), torch.cat(separate(), dim=2))
        sides: dict[str, Callable[[], Any]] = {"fused": lambda w=whole, p=pixels: w(p), "apart": separate}
        times = alternate(sides, options.rounds, options.clock)
        beside, what = f"the parts apart, {options.layers} layers each", f"{first} + {second}, {combine}"
        yield row("fused", what, beside, ratio(times, "fused", "apart"), TIME, times["fused"], options.batch)


def memory(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the most bytes that a fused forward holds, divided by those of the larger part and of the output."""
    for first, second, combine in options.pairs:
        parts = [saved(name, 3, folder) for name in (first, second)]  # two blocks: each one holds as much as the last
        pixels = FusedPixels([torch.rand(options.pictures, 3, side(part), side(part)) for part in parts])
        whole, output = held(build_tower({"towers": parts, "combine": combine}), pixels)
        larger = max(held(build_tower(part), given)[0] for part, given in zip(parts, pixels.parts, strict=True))
        what = f"{first} + {second}, {combine}, {options.pictures} pictures"
        yield row("memory", what, "the larger part and the output", once(whole / (larger + output)), MEMORY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    topics = {"fused": fused, "memory": memory, "behind": behind, "inside": inside}
    parser.add_argument("--quick", action="store_true", help="Use two layers, one pair of encoders and 2 rounds.")
    parser.add_argument("--only", nargs="+", choices=list(topics), default=list(topics))
    parser.add_argument("--layers", type=int, default=6, help="Number of layers of each encoder of a fused tower.")
    parser.add_argument("--whole", type=int, default=24, help="Number of layers of the encoder beside reductions.")
    parser.add_argument("--batch", type=int, default=1, help="Number of pictures whose time is measured.")
    parser.add_argument("--pictures", type=int, default=8, help="Number of pictures whose memory is measured.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--name", default="fusion", help="Name of the result file.")
    clock_option(parser)
    options = parser.parse_args()
    options.pairs, options.encoder = PAIRS, CLIP
    if options.quick:
        options.layers, options.whole, options.pairs, options.rounds = 2, 2, PAIRS[:1], 2
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        options.saved = lambda layers: saved(CLIP, layers, Path(folder))
        for topic in options.only:
            for found in topics[topic](options, Path(folder)):
                rows.append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
    claim = "several encoders as one, and fewer tokens: goals are the most that is allowed"
    report(
        options.name, claim, list(rows[0]), rows, threads=torch.get_num_threads(), clock=options.clock.__name__,
        layers=options.whole, torch=torch.__version__, transformers=transformers.__version__,
    )  # fmt: skip


if __name__ == "__main__":
    main()
