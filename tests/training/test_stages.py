"""Stages: their checks, what they train, and the loss of a batch beside transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llava
import pytest
import torch

from vita_core import VitaError, build_model
from vita_core.adapters import adapter_state
from vita_core.config.training import PartSettings
from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.training.joint import Joint, collate
from vita_core.training.parts import prepare_parts, roots, table
from vita_core.training.stages import resolve_stages
from vita_core.training.trainer import StageTrainer

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
ALIGN = {"name": "align", "train": {"projector": "full"}, "learning_rate": 1e-3, "steps": 2, "batch_size": 2}
FINETUNE = {
    "name": "finetune",
    "train": {"projector": "full", "llm": {"lora": {"rank": 4}}, "tower": {"from_layer": 1, "learning_rate": 1e-4}},
    "learning_rate": 1e-3,
    "steps": 2,
    "warmup": 0.0,
    "batch_size": 2,
}


def config(tiny_llm: Path, *stages: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {
        "tower": {"weights": str(GOLDEN / "siglip")} | sections.pop("tower", {}),
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "training": {"stages": list(stages)},
        **sections,
    }


def samples(model: Any, count: int) -> list[dict[str, Any]]:
    """Random pictures, each with the same prompt and answer."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([3, -200, 5, 6, 7, 8])
    labels = torch.tensor([-100, -100, -100, 6, 7, 8])
    shape = (1, *model.tower.shape.pixels)
    pictures = [torch.randn(shape, generator=generator) for _ in range(count)]
    return [{"input_ids": ids, "labels": labels, "pixels": [pixels], "sizes": [(56, 56)]} for pixels in pictures]


@pytest.mark.parametrize("stage", [ALIGN, FINETUNE], ids=["align", "finetune"])
def test_a_step_changes_what_is_trained_and_nothing_else(stage: dict[str, Any], tiny_llm: Path, tmp_path: Path) -> None:
    resolved = resolve(config(tiny_llm, stage))
    (made,) = resolve_stages(resolved, ["captions"])
    model = build(resolved)
    prepare_parts(model, made.parts, made.key)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    data = samples(
        model, 6
    )  # three steps: one of the warm-up, one until the gradient of an adapter's first layer is not zero
    StageTrainer(Joint(model), made, data, None, tmp_path, steps=3, seed=0, keep=2).train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    unused = {name for name in trained if "post_layernorm" in name}  # `norm: false`: no feature depends on it
    assert changed == trained - unused


def test_adapters_stay_inside_their_part(tiny_llm: Path) -> None:
    """Every linear layer of the decoder gets one, the output layer and the other parts get none."""
    resolved = resolve(config(tiny_llm, FINETUNE))
    model = build(resolved)
    prepare_parts(model, {"llm": PartSettings.model_validate({"lora": {"rank": 2}})}, "stage")
    found = {name.rsplit(".lora_", 1)[0] for name, _ in model.named_parameters() if ".lora_" in name}
    layers = resolved.llm.layers if resolved.llm else 0
    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    wanted = {
        f"llm.model.model.layers.{at}.{'self_attn' if kind[1:] == '_proj' else 'mlp'}.{kind}"
        for at in range(layers or 0)
        for kind in kinds
    }
    assert found == wanted
    assert {part for part, root in roots(model).items() if adapter_state(root)} == {"llm"}
    rows = {row.part: row for row in table(model, {})}
    assert rows["llm"].trained == sum(value.numel() for value in adapter_state(model.llm.model).values())
    assert rows["tower"].trained == rows["projector"].trained == 0


def test_the_loss_and_its_gradient_are_those_of_transformers(tiny_llm: Path, tmp_path: Path) -> None:
    theirs = llava.converted(tmp_path, tiny_llm, next_=False)
    model = build_model(tmp_path)
    prepare_parts(model, {"projector": PartSettings(full=True)}, "stage")
    pixels = torch.randn(2, 1, 3, llava.SIDE, llava.SIDE)
    rows = [[3, -200, 5, 6, 7, 8], [4, -200, 9, 10]]
    labels = [[-100, -100, -100, 6, 7, 8], [-100, -100, 9, 10]]
    batch = collate(
        [
            {
                "input_ids": torch.tensor(ids),
                "labels": torch.tensor(own),
                "pixels": [seen],
                "sizes": [(llava.SIDE,) * 2],
            }
            for ids, own, seen in zip(rows, labels, pixels, strict=True)
        ]
    )
    loss = Joint(model)(batch)
    loss.backward()
    tokens, longest = model.tower.num_tokens, max(map(len, rows))
    ids, targets, mask = [], [], []
    for row, own in zip(rows, labels, strict=True):
        spare = longest - len(row)
        at = row.index(-200)
        ids.append([*row[:at], *[llava.IMAGE_TOKEN] * tokens, *row[at + 1 :], *[0] * spare])
        targets.append([*own[:at], *[-100] * tokens, *own[at + 1 :], *[-100] * spare])
        mask.append([1] * (len(row) - 1 + tokens) + [0] * spare)
    expected = theirs(
        input_ids=torch.tensor(ids),
        labels=torch.tensor(targets),
        attention_mask=torch.tensor(mask),
        pixel_values=pixels[:, 0],
    ).loss
    theirs.zero_grad()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    ours: Any = model.projector
    pair = theirs.model.multi_modal_projector
    for own, layer in ((ours[0], pair.linear_1), (ours[2], pair.linear_2)):
        torch.testing.assert_close(own.weight.grad, layer.weight.grad, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own.bias.grad, layer.bias.grad, atol=1e-5, rtol=1e-5)


def test_a_batch_without_pictures_reaches_the_same_weights(tiny_llm: Path) -> None:
    resolved = resolve(config(tiny_llm, FINETUNE))
    (made,) = resolve_stages(resolved, ["captions"])
    model = build(resolved)
    prepare_parts(model, made.parts, made.key)
    reached = []
    text = {"input_ids": torch.tensor([3, 5, 6]), "labels": torch.tensor([-100, 5, 6]), "pixels": [], "sizes": []}
    for batch in (collate(samples(model, 1)), collate([text])):
        model.zero_grad()
        Joint(model)(batch).backward()
        reached.append({name for name, value in model.named_parameters() if value.grad is not None})
    assert reached[0] == reached[1]
    projector: Any = model.projector
    assert not projector[0].weight.grad.any()


BAD: dict[str, Any] = {
    "nothing": ([{**ALIGN, "train": {}}], r"stages\[0\]\.train: every part is frozen"),
    "two of one name": ([ALIGN, ALIGN], r"two stages have the name 'align'"),
    "unknown data": (
        [{**ALIGN, "data": "captins"}],
        r"stages\[0\]\.data: no data set of this name: 'captins'\. Did you mean",
    ),
    "a layer of the tower": (
        [{**ALIGN, "train": {"projector": "full", "tower": {"from_layer": 9}}}],
        r"train\.tower\.from_layer: 9 is after the last layer that runs",
    ),
    "a layer of the decoder": (
        [{**ALIGN, "train": {"projector": "full", "llm": {"from_layer": 99}}}],
        r"train\.llm\.from_layer: 99 is after the last layer that runs",
    ),
    "a layer of the projector": ([{**ALIGN, "train": {"projector": {"from_layer": 1}}}], r"this part has no layers"),
    "no reduction": (
        [{**ALIGN, "train": {"reduce": "full"}}],
        r"train\.reduce: the tower has no reduction with weights",
    ),
    "no reduction to adapt": (
        [{**ALIGN, "train": {"projector": "full", "reduce": {"lora": {"rank": 2}}}}],
        r"train\.reduce: the tower has no reduction with weights",
    ),
    "untrained": ([{**ALIGN, "train": {"llm": "full"}}], r"train\.projector: the projector has no weights yet"),
    "steps and epochs": ([{**ALIGN, "epochs": 1}], r"'epochs' and 'steps' exclude each other"),
    "two ways": (
        [{**ALIGN, "train": {"llm": {"full": True, "from_layer": 1}}}],
        r"full and from_layer exclude each other",
    ),
    "LoRA and then some layers": (
        [
            {**ALIGN, "train": {"projector": "full", "tower": {"lora": {"rank": 2}}}},
            {**FINETUNE, "train": {"tower": {"from_layer": 1}}},
        ],
        r"stages\[1\]\.train\.tower\.from_layer: the tower has an adapter since stage 'align'",
    ),
    "another adapter": (
        [
            {**ALIGN, "train": {"projector": "full", "llm": {"lora": {"rank": 2}}}},
            {**FINETUNE, "train": {"llm": {"lora": {"rank": 8}}}},
        ],
        r"stages\[1\]\.train\.llm\.lora: it differs from that of stage 'align', and a llm has one adapter",
    ),
    "template": (
        [{**ALIGN, "prompt": "vicuna"}],
        r"\.prompt: no template of this name: 'vicuna'\. Did you mean 'vicuna_v1'",
    ),
    "accumulate": ([{**ALIGN, "accumulate": 4}], r"'accumulate: 4' does not divide 'batch_size: 2'"),
}


@pytest.mark.parametrize(("stages", "message"), BAD.values(), ids=list(BAD))
def test_impossible_stages(stages: list[dict[str, Any]], message: str, tiny_llm: Path) -> None:
    with pytest.raises(VitaError, match=message):
        resolve_stages(resolve(config(tiny_llm, *stages)), ["captions", "chat"])


def test_stages_and_freeze_exclude_each_other(tiny_llm: Path) -> None:
    with pytest.raises(VitaError, match=r"tower\.freeze: with `training\.stages`, each stage says what it trains"):
        resolve_stages(resolve(config(tiny_llm, ALIGN, tower={"freeze": False})), ["captions"])
    with pytest.raises(VitaError, match=r"stages\[0\]\.data: there is no data set"):
        resolve_stages(resolve(config(tiny_llm, ALIGN)), [])
    with pytest.raises(VitaError, match=r"batch_size: 2 samples cannot be shared by 3 processes"):
        resolve_stages(resolve(config(tiny_llm, ALIGN)), ["captions"], processes=3)


def test_a_part_without_linear_layers_gets_no_adapter(tiny_llm: Path) -> None:
    model = build(resolve(config(tiny_llm, FINETUNE)))
    with pytest.raises(VitaError, match=r"stage\.train\.llm\.lora: the llm has no linear layer of the names qq_proj"):
        prepare_parts(model, {"llm": PartSettings.model_validate({"lora": {"targets": ["qq_proj"]}})}, "stage")


@pytest.mark.parametrize(
    ("part", "dtype"), [("tower", "float32"), ("projector", "float32"), ("llm", "float32"), ("llm", "bfloat16")]
)
def test_adapters_are_saved_and_opened_with_the_same_values(
    part: str, dtype: str, tiny_llm: Path, tmp_path: Path
) -> None:
    """A saved model keeps the adapter beside the weights, so that its answers do not change by a bit. It is in float32."""
    halved = {"tower": {"dtype": dtype}, "llm": {"weights": str(tiny_llm), "dtype": dtype}}
    model = build(resolve(config(tiny_llm, FINETUNE, **halved)))
    plain = {name: value.clone() for name, value in roots(model)[part].state_dict().items()}
    prepare_parts(model, {part: PartSettings.model_validate({"lora": {"rank": 2}})}, "stage")
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter_state(roots(model)[part]).values():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    model.eval()
    batch = collate(samples(model, 2))
    model.save(tmp_path / "saved")
    again = build_model(tmp_path / "saved")
    assert {value.dtype for value in adapter_state(roots(again)[part]).values()} == {torch.float32}
    same(again, model, batch)
    kept = {name.replace(".base_layer.", "."): value for name, value in roots(again)[part].state_dict().items()}
    assert all(torch.equal(kept[name], value) for name, value in plain.items())
    assert not any(parameter.requires_grad for parameter in again.parameters())
    again.save(tmp_path / "twice")
    same(build_model(tmp_path / "twice"), model, batch)


def same(one: Any, other: Any, batch: Any) -> None:
    """Every tensor is equal to the bit. The losses may differ in the last one: kernels choose by the place in memory."""
    state, expected = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    with torch.no_grad():
        torch.testing.assert_close(Joint(one)(batch), Joint(other)(batch), rtol=1e-6, atol=0)


def test_an_adapter_that_is_not_there(tiny_llm: Path, tmp_path: Path) -> None:
    for part in ("tower", "projector", "llm"):
        written = config(tiny_llm)
        written["training"] = {}
        written[part] = {**written.get(part, {}), "adapter": str(tmp_path)}
        with pytest.raises(VitaError, match=rf"{part}\.adapter: it holds no adapter_config\.json"):
            resolve(written)


def test_merged_adapters(tiny_llm: Path, tmp_path: Path) -> None:
    """A model saved with its adapters merged has no adapter, gives the same loss up to rounding, and itself stays as it is."""
    model = build(resolve(config(tiny_llm, FINETUNE)), untrained=True)
    parts = {part: PartSettings.model_validate({"lora": {"rank": 2}}) for part in ("tower", "projector", "llm")}
    prepare_parts(model, parts, "stage")
    generator = torch.Generator().manual_seed(0)
    for root in roots(model).values():
        for parameter in adapter_state(root).values():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    model.eval()
    batch, before = collate(samples(model, 2)), {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        loss = Joint(model)(batch)
    model.save(tmp_path / "merged", merge_adapters=True)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with torch.no_grad():
        assert torch.equal(Joint(model)(batch), loss)
    again = build_model(tmp_path / "merged")
    assert not any(adapter_state(root) for root in roots(again).values())
    assert not [*(tmp_path / "merged").glob("*-adapter")]
    with torch.no_grad():
        torch.testing.assert_close(Joint(again)(batch), loss, atol=1e-4, rtol=1e-4)
        projector = {"weights": str(tmp_path / "merged" / "projector.safetensors")}
        plain = Joint(build_model(config(tiny_llm) | {"training": {}, "projector": projector}))
        assert (plain(batch) - loss).abs() > 1e-3  # the adapters matter
