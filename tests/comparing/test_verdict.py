"""The verdict, the notes and the report of comparisons whose scores are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vita_core.comparing.assembling import pairs
from vita_core.comparing.repeating import readable
from vita_core.comparing.report import report
from vita_core.comparing.running import Finished, Run
from vita_core.comparing.statistics import estimate
from vita_core.comparing.verdict import notes, verdict
from vita_core.probing.measures import rounded

GROUPS = 60


def scored(named: float, loss: float, *, seed: int = 0, seeds: int = 3, groups: int = GROUPS) -> list[Finished]:
    """Runs whose answers name such a share of pictures, with such a loss; some pictures are harder for all."""
    hard = np.random.default_rng(99).normal(size=groups)
    rng, runs = np.random.default_rng(seed), []
    for number in range(seeds):
        losses = loss + 0.3 * hard + 0.05 * rng.normal(size=groups)
        hits = rng.random(groups) < named
        rows = [
            {"group": group, "loss": losses[group], "named": bool(hits[group]), "shuffled": group % 30 == 0}
            for group in range(groups)
        ]
        run: Any = Run(None, None, number, Path())  # type: ignore[arg-type]  # of a run only the scores are read
        runs.append(Finished(run, rows, {}))
    return runs


def compared(runs: dict[str, list[Finished]], *, flops: dict[str, int] | None = None, **changes: Any) -> dict[str, Any]:
    configs = []
    for name, found in runs.items():
        groups = [row["group"] for row in found[0].rows]
        entry: dict[str, Any] = {
            "name": name,
            "failed": None,
            "unequal": [],
            "flops_per_picture": (flops or {}).get(name, 7),
        }
        for measure in ("named", "loss", "shuffled"):
            values = np.array([[row[measure] for row in one.rows] for one in found], float)
            seen = estimate(values, groups, share=measure != "loss", resamples=500)
            entry[measure] = {"mean": seen.mean, "low": seen.low, "high": seen.high}
        gain = np.array([[row["named"] - row["shuffled"] for row in one.rows] for one in found], float)
        entry["above_chance"] = {"low": estimate(gain, groups, resamples=500).low}
        configs.append(entry)
    first = next(iter(runs.values()))
    data = {"name": "d", "train": 280, "validation": 60, "test": len(first[0].rows)}
    data |= {"groups": 400, "test_groups": len(first[0].rows)}
    whole = {
        "configs": configs,
        "pairs": pairs(runs, len(first[0].rows)),
        "data": data,
        "settings": {"seeds": [*range(len(first))], "steps": 5, "tokens": 4, "tune": {}},
        "unequal": [],
    } | changes
    return whole | {"verdict": verdict(whole), "notes": notes(whole)}


def test_a_clear_winner_is_named_with_how_sure_that_is() -> None:
    runs = {"clip": scored(0.3, 2.0, seed=1), "dino": scored(0.9, 1.0, seed=2), "random": scored(0.1, 3.0, seed=3)}
    found = compared(runs)
    pair = next(one for one in found["pairs"] if (one["a"], one["b"], one["measure"]) == ("clip", "dino", "named"))
    assert found["verdict"] == (
        f"Take dino (60 test pictures, 3 seeds): it names {-pair['difference'] * 100:.1f} points more of the "
        f"pictures than clip (95% interval "
        f"{-pair['high'] * 100:.1f} to {-pair['low'] * 100:.1f}, p = {pair['p_holm']:.2g} after Holm's correction)."
    )
    assert pair["significant"]
    assert pair["needed"] is None
    assert found["notes"] == []


def test_the_loss_decides_where_the_answers_do_not() -> None:
    found = compared({"a": scored(0.3, 2.0, seed=1), "b": scored(0.3, 1.8, seed=1)})
    assert found["verdict"].startswith(
        "Take b (60 test pictures, 3 seeds): it has a held-out loss 0.2 lower than a (95% interval "
    )
    assert found["verdict"].endswith("in the share of pictures named, no config stands out.")


def test_a_winner_whose_loss_is_higher_is_said_to_have_it() -> None:
    found = compared({"a": scored(0.9, 2.0, seed=1), "b": scored(0.3, 1.8, seed=2)})
    assert found["verdict"].startswith("Take a (60 test pictures, 3 seeds): it names ")
    assert found["verdict"].endswith("; but b has the lower held-out loss.")


def test_no_difference_is_said_to_be_none_and_what_would_show_one() -> None:
    flops = {"a": 9, "b": 3}
    found = compared({"a": scored(0.45, 2.0, seed=1), "b": scored(0.45, 2.001, seed=5)}, flops=flops)
    assert found["verdict"] == (
        "Take b, which costs least: no difference was found between a and b (60 test pictures, 3 seeds)."
    )
    nearest = min(found["pairs"], key=lambda pair: pair["p"])
    expected = "more seeds" if nearest["needed"] is None else "needed to show one of this size"
    (note,) = found["notes"]
    assert note.startswith("The nearest to a difference is that ")
    assert expected in note
    needed = [one["needed"] for one in found["pairs"] if one["needed"] is not None]
    assert all(count > 60 for count in needed)


def test_those_that_did_worse_are_named() -> None:
    same = scored(0.8, 1.0, seed=1)
    found = compared({"a": same, "b": same, "c": scored(0.1, 3.0, seed=2)})
    assert (
        found["verdict"]
        == "No difference was found between a and b (60 test pictures, 3 seeds), and they cost the same; c did worse."
    )
    assert found["notes"] == []  # the answers and losses of both are equal
    two = compared({"a": same, "c": scored(0.1, 3.0, seed=2)}, unequal=["c: training.steps: 9, but 5 in a"])
    assert two["notes"][0] == "The configs are not compared on equal terms: c: training.steps: 9, but 5 in a."


def test_too_few_pictures_and_one_seed_are_told() -> None:
    found = compared({"a": scored(0.5, 1.0, groups=6, seeds=1), "b": scored(0.5, 1.0, groups=6, seed=1, seeds=1)})
    assert found["notes"][0] == (
        "6 different test pictures are too few for intervals to rely on. 20 would do, which a data set of about 1,154 such "
        "pictures has."
    )
    assert found["verdict"].startswith("Too few test pictures to be sure: ")
    assert found["notes"][1].startswith("One seed: the intervals do not contain")


def test_models_that_learned_nothing_are_told() -> None:
    found = compared({"a": scored(0.03, 1.0, seed=1), "b": scored(0.03, 1.0, seed=2)})
    assert found["notes"][-1].startswith("No config is shown to name more pictures than with the captions shuffled")
    for pair in found["pairs"]:  # even if the answers seemed to differ
        pair["significant"] = pair["measure"] == "named"
    assert verdict(found).startswith("No difference ")
    for pair in found["pairs"]:
        pair["significant"] = True
    assert verdict(found).endswith("; but no config is shown to name more pictures than chance.")


def test_nothing_to_compare_is_said() -> None:
    one = compared({"a": scored(0.5, 1.0)})
    assert one["verdict"] == "There is nothing to compare: only a finished."
    one["configs"][0]["failed"] = "no space"
    assert verdict(one) == "There is nothing to compare: no config finished."
    assert "a failed: no space" in notes(one)


def test_a_difference_of_nothing_still_has_an_interval() -> None:
    none = scored(0.0, 1.0, seed=1)
    (pair, _) = pairs({"a": none, "b": none}, GROUPS)
    assert (pair["difference"], pair["p"], pair["needed"]) == (0, 1, None)
    assert pair["high"] == -pair["low"] == pytest.approx(1 - 0.025 ** (1 / 60))


def test_every_table_marks_what_is_not_on_equal_terms() -> None:
    found = compared({"a": scored(0.9, 1.0, seed=1), "b": scored(0.3, 2.0, seed=2)})
    found["unequal"] = ["b: tower: 4 tokens a picture, fewer than 9"]
    found["settings"]["tune"] = {"learning_rate": [0.1]}
    found["cka"] = {"towers": ["a", "b"], "matrix": [[1, 0.5], [0.5, 1]], "pictures": 9}
    found["examples"] = [
        {"image": "x.jpg", "caption": "x|y", "answers": {"a": "x", "b": "y"}, "named": {"a": True, "b": False}}
    ]
    rest = {
        "tower": "clip",
        "weights": "w",
        "tokens": 4,
        "tokens_before": 4,
        "parameters": {"tower": 1, "reduce": 0, "projector": 2},
    }
    for one in found["configs"]:
        one.update(rest, learning_rate=0.1, tuning=[{"learning_rate": 0.1, "validation_loss": 1.0}])
    found["configs"][1]["unequal"] = ["tower: 4 tokens a picture, fewer than 9"]
    timings = {
        name: {"ms_per_picture": {"median": 1, "low": 1, "high": 1}, "training_seconds": None, "peak_bytes": None}
        for name in "ab"
    }
    text = "\n".join(report(found, timings))
    assert text.count("† Not on equal terms: b: tower: 4 tokens a picture, fewer than 9") == text.count("\n## ") == 6
    assert "x\\|y" in text
    assert "| **x** | y |" in text


def test_floats_are_rounded_and_places_left_out() -> None:
    assert rounded({"a": [1 / 3, 3, "x", None, (1e-9,)]}) == {"a": [0.333333, 3, "x", None, [1e-9]]}
    assert (
        readable("cannot read /data/me/model.bin: damaged. Try: again") == "cannot read model.bin: damaged. Try: again"
    )
    assert readable("see https://example.org/a/b and owner/name") == "see https://example.org/a/b and owner/name"


def decided(
    named: dict[str, float], loss: dict[str, float], significant: set[tuple[str, str, str]]
) -> tuple[str, list[str]]:
    """The verdict and the notes of three configs with such means, of which only these differences are shown."""
    configs = [
        {"name": name, "failed": None, "flops_per_picture": 7, "above_chance": {"low": 0.1}} for name in ("a", "b", "c")
    ]
    rows = [
        {"a": a, "b": b, "measure": measure, "difference": values[a] - values[b], "low": -0.1, "high": 0.3}
        | {"p": 0.001 if (a, b, measure) in significant else 0.5, "needed": 200}
        for a, b in (("a", "b"), ("a", "c"), ("b", "c"))
        for measure, values in (("named", named), ("loss", loss))
    ]
    for row in rows:
        row |= {"p_holm": row["p"], "significant": row["p"] < 0.05}
    data = {"test": 60, "test_groups": 60}
    found = {"configs": configs, "pairs": rows, "data": data, "settings": {"seeds": [0, 1]}, "unequal": []}
    return verdict(found), notes(found)


def test_measures_that_disagree_do_not_contradict_each_other() -> None:
    """Each config did worse than another one in some measure: the share named decides."""
    told, (nearest, other) = decided(
        {"a": 0.6, "b": 0.4, "c": 0.5},
        {"a": 1.2, "b": 1.0, "c": 1.1},
        {("a", "b", "named"), ("a", "c", "loss"), ("b", "c", "loss")},
    )
    assert told == (
        "No difference in the share of pictures named was found between a and c (60 test pictures, 2 seeds), and they cost the "
        "same; b did worse."
    )
    assert nearest.startswith("The nearest to a difference is that a names 10.0 points more of the pictures than c")
    assert other.startswith("c has a held-out loss 0.1 lower than a")
    told, _ = decided(
        {"a": 0.6, "b": 0.4, "c": 0.5}, {"a": 1.2, "b": 1.0, "c": 1.1}, {("a", "b", "named"), ("a", "b", "loss")}
    )
    assert told.startswith("No difference was found between a and c")


def test_what_is_needed_stands_the_correction() -> None:
    """Of many pairs, a difference that is not shown needs more pictures than there are."""
    runs = {str(number): scored(0.3 + number * 0.05, 2.0, seed=number, groups=40) for number in range(6)}
    rows = pairs(runs, 40)
    assert len(rows) == 30
    assert any(row["p"] < 0.05 and not row["significant"] for row in rows)
    assert all(row["needed"] is None or row["needed"] > 40 for row in rows)
