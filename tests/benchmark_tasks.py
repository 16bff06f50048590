"""Tasks of lmms-eval over a few photos, made of local files. Needs datasets, but not lmms-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ("astronaut", "brick", "chelsea", "coffee", "coins", "grass", "gravel", "horse", "moon", "page", "text")
QUESTION = "what is this picture of ?"
SETTINGS = "{max_new_tokens: 5, temperature: 0, do_sample: false}"
FUNCTIONS = '''"""What the tasks read from a row, and the scores of its answer."""


def picture(doc):
    return [doc["image"].convert("RGB")]


def pictures(doc):
    return [picture.convert("RGB") for picture in doc["images"]]


def video(doc):
    return [doc["video"]]


def sound(doc):
    return [{"array": [0.0], "sampling_rate": 16000}]


def scores(doc, results):
    return {"named": float(doc["answer"] in results[0]), "letters": float(len(results[0]))}
'''


def photos() -> list[Image.Image]:
    """A dozen photos: scikit-image's and the cat of the examples, at most 96 pixels wide or high."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    files = [*(folder / f"{name}.png" for name in NAMES), Path(__file__).parents[1] / "examples/pictures/cat.jpg"]
    made = []
    for file in files:
        with Image.open(file) as opened:
            made.append(opened.convert("RGB"))
        made[-1].thumbnail((96, 96))
    return made


def write_tasks(folder: Path, video: Path) -> Path:
    """Write the tasks `vita_photos`, `vita_pairs`, `vita_video`, `vita_choices` and `vita_sound` to a folder."""
    from datasets import Dataset, Features, Image, Sequence, Value

    shown = photos()
    text: dict[str, Any] = {"question": Value("string"), "answer": Value("string"), "video": Value("string")}
    features = Features(text | {"image": Image(), "images": Sequence(Image())})
    rows = {
        "question": [QUESTION] * 6 + ["is it a cat ?"] * 6,
        "answer": ["cat", "dog", "cup"] * 4,
        "video": [str(video)] * 12,
        "image": shown,
        "images": [[one, shown[(number + 1) % 12]][: 1 + number % 2] for number, one in enumerate(shown)],
    }
    Dataset.from_dict(rows, features=features).to_parquet(folder / "photos.parquet")
    (folder / "functions.py").write_text(FUNCTIONS)
    generated = (
        f"output_type: generate_until\ngeneration_kwargs: {SETTINGS}\nprocess_results: !function functions.scores\n"
    )
    generated += "metric_list: [{metric: named, aggregation: mean}, {metric: letters, aggregation: mean}]\n"
    chosen = "output_type: multiple_choice\ndoc_to_choice: [cat, dog, cup]\nmetric_list: [{metric: acc}]\n"
    for name, visual, how in (
        ("photos", "picture", generated),
        ("pairs", "pictures", generated),
        ("video", "video", generated),
        ("sound", "sound", generated),
        ("choices", "picture", chosen),
    ):
        (folder / f"{name}.yaml").write_text(
            f"task: vita_{name}\ndataset_path: parquet\n"
            f"dataset_kwargs: {{data_files: {{test: {folder / 'photos.parquet'}}}}}\ntest_split: test\n"
            f"doc_to_visual: !function functions.{visual}\ndoc_to_text: question\ndoc_to_target: answer\n{how}"
        )
    return folder
