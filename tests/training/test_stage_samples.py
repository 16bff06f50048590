"""Every kind of sample that a stage trains on has the loss of its tokens put together by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_stages import config
from videos import write_video

from vita_core.config.prompts import PromptConfig
from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.training.data import Sample, SampleError, Turn
from vita_core.training.data.samples import PictureRef
from vita_core.training.joint import Joint, collate
from vita_core.training.making import SampleMaker


def opened(tiny_llm: Path, **sections: Any) -> Any:
    written = config(tiny_llm, **sections) | {"training": {}}
    torch.manual_seed(0)
    return build(resolve(written), untrained=True).eval()


def pictures(folder: Path, *sizes: tuple[int, int]) -> tuple[PictureRef, ...]:
    made = []
    for number, size in enumerate(sizes):
        file = folder / f"{number}.png"
        Image.effect_noise(size, 90).convert("RGB").save(file)
        made.append(PictureRef(file.name, file))
    return tuple(made)


def expected(model: Any, sample: dict[str, Any], visual: list[torch.Tensor]) -> torch.Tensor:
    """The language model's own loss of a sample whose places have the tokens `visual`."""
    places, rows, labels = iter(visual), [], []
    for token, label in zip(sample["input_ids"], sample["labels"], strict=True):
        found = next(places) if token < 0 else model.llm.embed(token[None])
        rows.append(found)
        labels += [label.item()] * len(found)
    assert next(places, None) is None
    loss: torch.Tensor = model.llm.model(inputs_embeds=torch.cat(rows)[None], labels=torch.tensor([labels])).loss
    return loss


def check(model: Any, sample: dict[str, Any], visual: list[torch.Tensor]) -> None:
    with torch.no_grad():
        assert Joint(model)(collate([sample])).item() == pytest.approx(expected(model, sample, visual).item(), abs=1e-5)


def made(model: Any, sample: Sample, template: str, **more: Any) -> dict[str, Any]:
    return SampleMaker(model, PromptConfig(template=template), more.get("max_length"))(sample)  # type: ignore[arg-type]  # `more` has values of any type


ASK = (Turn("what is <image> this ?", "a cat ."), Turn("what is it ?", "a dog ."))


@pytest.mark.parametrize("template", ["nemo", "vicuna_v1", "chat"])
def test_tiles(template: str, tiny_llm: Path, tmp_path: Path) -> None:
    """Where the format marks tiles, each has its own place; else those of a picture share one."""
    model = opened(tiny_llm, images={"tiles": {"min": 1, "max": 4}})
    refs = pictures(tmp_path, (200, 60), (56, 56))
    asked = (Turn("<image> what is <image> this ?", "a cat ."), Turn("what is it ?", "a dog ."))
    sample = made(model, Sample(refs, asked), template)
    tiles = [len(pixels) for pixels in sample["pixels"]]
    assert tiles[0] > 1
    assert sample["by_tile"] == (template == "nemo")
    with torch.no_grad():
        visual = [tile for pixels in sample["pixels"] for tile in model.encode_images(pixels)]
    if not sample["by_tile"]:
        visual = [torch.cat(visual[: tiles[0]]), torch.cat(visual[tiles[0] :])]
    check(model, sample, visual)


def test_text_only_samples_between_others(tiny_llm: Path, tmp_path: Path) -> None:
    model = opened(tiny_llm)
    with_picture = made(model, Sample(pictures(tmp_path, (56, 56)), ASK), "chat")
    text = made(model, Sample((), (Turn("what is red ?", "a cup ."),)), "chat")
    with torch.no_grad():
        (seen,) = model.encode_images(with_picture["pixels"][0])
        both = Joint(model)(collate([text, with_picture]))
        counts = [(sample["labels"] >= 0).sum() for sample in (text, with_picture)]
        losses = [expected(model, text, []), expected(model, with_picture, [seen])]
    wanted = (losses[0] * counts[0] + losses[1] * counts[1]) / sum(counts)
    assert both.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_a_video_is_its_frames_for_a_tower_of_pictures(tiny_llm: Path, tmp_path: Path) -> None:
    model = opened(tiny_llm, images={"tiles": {"min": 1, "max": 4}, "frames": 3})
    video = write_video(tmp_path / "v.mp4", 50, size=(128, 32))
    clip = PictureRef("v.mp4", video)
    inside = PictureRef("v.mp4", data=video.read_bytes())
    asked, shown = (Turn("<video> what is <image> this ?", "a cat ."),), pictures(tmp_path, (56, 56))
    one, other = (made(model, Sample(shown, asked, videos=(ref,)), "chat") for ref in (clip, inside))
    assert [len(pixels) for pixels in one["pixels"]] == [1, 1, 1, 1]  # the frames come first, and are not cut
    assert all(torch.equal(*pair) for pair in zip(one["pixels"], other["pixels"], strict=True))
    greys = [pixels.mean().item() for pixels in one["pixels"][:3]]
    assert greys == sorted(greys)
    with torch.no_grad():
        check(model, one, [model.encode_images(pixels)[0] for pixels in one["pixels"]])
    length = len(one["input_ids"]) - 4 + 4 * model.tower.num_tokens
    sample = Sample(shown, asked, videos=(clip,))
    assert made(model, sample, "chat", max_length=length)
    with pytest.raises(SampleError, match=f"too long: {length} of {length - 1} tokens"):
        made(model, sample, "chat", max_length=length - 1)
    for ref, reason in ((PictureRef("n.mp4", tmp_path / "n.mp4"), "a video is missing"),
                        (PictureRef("b.mp4", data=b"no video"), "a video cannot be opened")):  # fmt: skip
        with pytest.raises(SampleError, match=reason):
            made(model, Sample((), (Turn("<video>", "a cat ."),), videos=(ref,)), "chat")


def test_a_video_is_one_clip_for_a_tower_of_videos(tiny_llm: Path, vivit: Path, tmp_path: Path) -> None:
    model = opened(tiny_llm, tower={"weights": str(vivit)})
    video = PictureRef("v.mp4", write_video(tmp_path / "v.mp4", 20, size=(64, 64)))
    sample = made(model, Sample((), (Turn("<video> what is it ?", "a cat ."),), videos=(video,)), "chat")
    assert [tuple(pixels.shape) for pixels in sample["pixels"]] == [(1, 4, 3, 56, 56)]
    with torch.no_grad():
        check(model, sample, [model.encode_images(sample["pixels"][0])[0]])
    with pytest.raises(SampleError, match="a picture, but the tower takes videos"):
        made(model, Sample(pictures(tmp_path, (56, 56)), ASK), "chat")
