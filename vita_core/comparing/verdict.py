"""Say in one sentence which config to take, and how sure that is. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita_core.comparing.statistics import FEWEST

__all__ = ["notes", "percent", "sides", "verdict"]

WORDS = {"named": "the share of pictures named", "loss": "the held-out loss"}
"""The measures, the one that decides first."""
MANY = 1_000_000
"""Nobody has more pictures than this for a test."""


def verdict(comparison: Mapping[str, Any]) -> str:
    """Return the sentence that stands on top of a comparison."""
    alive = {one["name"]: one for one in comparison["configs"] if one["failed"] is None}
    if len(alive) < 2:
        left = f"only {next(iter(alive))} finished" if alive else "no config finished"
        return f"There is nothing to compare: {left}."
    told = _decided(comparison, alive)
    if comparison["data"]["test_groups"] < FEWEST:
        return f"Too few test pictures to be sure: {told[0].lower()}{told[1:]}"
    return told


def _decided(comparison: Mapping[str, Any], alive: Mapping[str, Any]) -> str:
    """Return the sentence for enough pictures. Answers count only if some config names more pictures than chance does."""
    learned, pairs = _above_chance(alive.values()), _counted(comparison, alive)
    size = f"{comparison['data']['test']} test pictures, {_plural(len(comparison['settings']['seeds']), 'seed')}"
    named, lower = _winner(alive, pairs, "named"), _winner(alive, pairs, "loss")
    if named is not None:
        told = f"Take {named} ({size}): it {_told(_closest(pairs, named, 'named'), named)}"
        return f"{told}; but {lower} has the lower held-out loss." if lower not in (None, named) else f"{told}."
    if lower is not None:
        told = f"Take {lower} ({size}): it {_told(_closest(pairs, lower, 'loss'), lower)}"
        if not learned:
            return f"{told}; but no config is shown to name more pictures than chance."
        return f"{told}; in the share of pictures named, no config stands out."
    return _undecided(alive, pairs, size)


def _counted(comparison: Mapping[str, Any], alive: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the pairs that count: those of the loss only, if no config names more than chance."""
    learned = _above_chance(alive.values())
    return [pair for pair in comparison["pairs"] if learned or pair["measure"] == "loss"]


def _above_chance(configs: Iterable[Mapping[str, Any]]) -> bool:
    return any(one["above_chance"]["low"] > 0 for one in configs)


def _undecided(alive: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], size: str) -> str:
    """Return the sentence where no config is better than every other."""
    best = _best(alive, pairs)
    costs = {alive[name]["flops_per_picture"] for name in best.names}
    cheapest = min(best.names, key=lambda name: (alive[name]["flops_per_picture"], best.names.index(name)))
    if len(best.names) == 1:
        return f"Take {cheapest} ({size}): no config is better, but it is not shown to be better than every other one."
    found = "is sure" if best.nearest["p"] < 0.05 else "was found"  # sure: also after Holm's correction
    of = f" in {WORDS[best.measure]}" if best.measure is not None and best.others else ""
    none = f"o difference{of} {found} between {_listed(best.names)} ({size})"
    told = f"Take {cheapest}, which costs least: n{none}" if len(costs) > 1 else f"N{none}, and they cost the same"
    worse = [name for name in alive if name not in best.names]
    return f"{told}; {_listed(worse)} did worse." if worse else f"{told}."


@dataclass(frozen=True)
class _Best:
    """The configs that none is shown to beat in `measure`: the nearest pair of them, and those that differ in the other."""

    names: list[str]
    measure: str | None
    nearest: Mapping[str, Any]
    others: list[Mapping[str, Any]]


def _best(alive: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]) -> _Best:
    shown = [pair for pair in pairs if pair["significant"]]
    deciding = next((measure for measure in WORDS if any(pair["measure"] == measure for pair in shown)), None)
    own = [pair for pair in pairs if deciding in (None, pair["measure"])]  # two measures may contradict each other
    worse = {loser for pair in own if pair["significant"] and (loser := sides(pair)[1])}
    names = [name for name in alive if name not in worse]
    among = [pair for pair in pairs if pair["a"] in names and pair["b"] in names]
    nearest = min((pair for pair in among if pair in own), key=lambda pair: pair["p"], default={})
    return _Best(names, deciding, nearest, [pair for pair in among if pair["significant"]])


def _among_the_best(comparison: Mapping[str, Any], alive: Mapping[str, Any]) -> list[str]:
    """Return what is known of the best configs where no one is better than every other."""
    pairs = _counted(comparison, alive)
    if any(_winner(alive, pairs, measure) for measure in WORDS) or len((best := _best(alive, pairs)).names) < 2:
        return []
    found = []
    if (better := sides(best.nearest)[0]) is not None:
        found.append(
            f"The nearest to a difference is that {better} {_told(best.nearest, better)}; {_needs(best.nearest)}."
        )
    for pair in best.others:  # in the measure that does not decide
        if (better := sides(pair)[0]) is not None:
            found.append(f"{better} {_told(pair, better)}.")
    return found


def _needs(pair: Mapping[str, Any]) -> str:
    """Return what would show a difference as large as that of a pair."""
    if pair["needed"] is None:
        return "more seeds, not more pictures, would show whether it is real"
    return f"about {_count(pair['needed'])} test pictures would be needed to show one of this size"


def _count(number: int) -> str:
    return f"{number:,}" if number <= MANY else "more than a million"


def _winner(alive: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], measure: str) -> str | None:
    """Return the config that is better than every other one in a measure, after the correction."""
    beaten: dict[str, set[str]] = {name: set() for name in alive}
    for pair in pairs:
        better, worse = sides(pair)
        if pair["measure"] == measure and pair["significant"] and better is not None and worse is not None:
            beaten[better].add(worse)
    return next((name for name, found in beaten.items() if len(found) == len(alive) - 1), None)


def sides(pair: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the better and the worse config of a pair, or twice None if they are equal."""
    good = pair["difference"] if pair["measure"] == "named" else -pair["difference"]
    if good == 0:
        return None, None
    return (pair["a"], pair["b"]) if good > 0 else (pair["b"], pair["a"])


def _closest(pairs: Sequence[Mapping[str, Any]], name: str, measure: str) -> Mapping[str, Any]:
    """Return the pair of a winner with its closest rival."""
    own = [pair for pair in pairs if pair["measure"] == measure and name in (pair["a"], pair["b"])]
    return min(own, key=lambda pair: abs(pair["difference"]))


def _told(pair: Mapping[str, Any], name: str) -> str:
    """Return how much better a config is than the other one of a pair."""
    other = pair["b"] if pair["a"] == name else pair["a"]
    sign = 1 if (pair["a"] == name) == (pair["measure"] == "named") else -1
    low, high = sorted((sign * pair["low"], sign * pair["high"]))
    sureness = f", p = {pair['p_holm']:.2g} after Holm's correction"
    if pair["measure"] == "named":
        points = abs(pair["difference"]) * 100
        interval = f"95% interval {low * 100:.1f} to {high * 100:.1f}"
        return f"names {points:.1f} points more of the pictures than {other} ({interval}{sureness})"
    interval = f"95% interval {low:.3g} to {high:.3g}"
    return f"has a held-out loss {abs(pair['difference']):.3g} lower than {other} ({interval}{sureness})"


def notes(comparison: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before the numbers."""
    data, found = comparison["data"], []
    groups = data["test_groups"]
    if comparison["unequal"]:
        found.append(f"The configs are not compared on equal terms: {'; '.join(comparison['unequal'])}.")
    found += [f"{one['name']} failed: {one['failed']}" for one in comparison["configs"] if one["failed"] is not None]
    if groups < FEWEST:
        whole = data["train"] + data["validation"] + data["test"]
        found.append(
            f"{groups} different test pictures are too few for intervals to rely on. {FEWEST} would do, which a data set of "
            f"about {-(-whole * FEWEST // groups):,} such pictures has."
        )
    if len(comparison["settings"]["seeds"]) == 1:
        found.append("One seed: the intervals do not contain how much another seed would change.")
    alive = {one["name"]: one for one in comparison["configs"] if one["failed"] is None}
    if len(alive) > 1:
        found += _among_the_best(comparison, alive)
    if alive and not _above_chance(alive.values()):
        found.append(
            "No config is shown to name more pictures than with the captions shuffled, so the verdict is by the loss: the models "
            "have hardly learned to tell pictures apart. Train on more pictures or for more steps before you decide."
        )
    return found


def percent(value: Mapping[str, float]) -> str:
    """Return a share with its interval, in percent."""
    return f"{value['mean']:.1%} ({value['low']:.1%} to {value['high']:.1%})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
