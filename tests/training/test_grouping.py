"""Batches of samples of similar length."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data_sets import opened, write

from vita_core.training.data.grouping import Grouped
from vita_core.training.data.mixing import DataSet, Drawn, Mixture
from vita_core.training.data.rejecting import RejectedLog


def test_the_samples_of_a_batch_have_a_similar_length(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.png", "caption": "word " * (n % 17)} for n in range(1, 201) if n % 17]
    source = opened(write(tmp_path / "captions.jsonl", *rows))
    drawn = Drawn(
        Mixture([DataSet("one", source)], 5), 400, lambda sample: sample.caption, RejectedLog(tmp_path / "r.jsonl")
    )
    grouped = Grouped(drawn, 4, seed=5)
    assert len(grouped) == 400
    got = [*grouped]
    assert Counter(got) == Counter([*drawn])

    def spread(captions: list[str]) -> float:
        batches = [[len(text) for text in captions[at : at + 4]] for at in range(0, 400, 4)]
        return sum(max(batch) - min(batch) for batch in batches) / len(batches)

    assert spread(got) < spread([*drawn]) / 5
    means = [sum(map(len, got[at : at + 4])) for at in range(0, 128, 4)]
    assert means not in (sorted(means), sorted(means, reverse=True))  # the batches themselves are in no order
    again = Grouped(drawn, 4, seed=5)
    assert [again[position] for position in (399, 7, 128)] == [got[position] for position in (399, 7, 128)]
    assert [*Grouped(drawn, 4, seed=6)] != got
