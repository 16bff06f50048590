"""A batch that is too large for the memory of a device, and a device that fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import golden_settings

from vita_core import VitaError, build_tower
from vita_core.towers.memory import in_memory


class Small:
    """Takes the place of a device: its memory holds so many pictures."""

    def __init__(self, holds: int, error: Exception) -> None:
        self.holds, self.error, self.sizes = holds, error, list[int]()

    def __call__(self, module: Any, given: tuple[torch.Tensor, ...]) -> None:
        self.sizes.append(len(given[0]))
        if len(given[0]) > self.holds:
            raise self.error


def opened(holds: int, error: Exception, **settings: Any) -> tuple[Any, Small]:
    tower = build_tower({**golden_settings("clip"), "max_batch": 4, **settings}, device="cpu")
    small = Small(holds, error)
    patches = next(module for module in tower.encoder.modules() if isinstance(module, torch.nn.Conv2d))
    patches.register_forward_pre_hook(small)
    return tower, small


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] data. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.reliability(
    door="a tower",
    fault="a batch that is too large for the memory",
    expected="it is halved once, and a warning says so; the same tokens",
)
def test_a_batch_is_halved_once(error: Exception) -> None:
    pixels = torch.randn(7, 3, 56, 56)
    tower, small = opened(2, error)
    with pytest.warns(
        UserWarning, match=r"tower 'clip' is out of memory with a batch of 4, and goes on with 2\. Try: `tower\.max"
    ):
        found = tower(pixels)
    assert small.sizes == [4, 2, 2, 2, 1]
    small.holds = 7
    assert torch.equal(found, tower(pixels))


@pytest.mark.filterwarnings("ignore:tower 'clip' is out of memory")
@pytest.mark.parametrize(
    ("holds", "limit", "told"), [(1, 4, (2, "`tower.max_batch: 1`, a smaller")), (0, 1, (1, "a smaller"))]
)
@pytest.mark.reliability(
    door="a tower",
    fault="half of a batch that is too large for the memory",
    expected="an error that names the tower and what to do",
)
def test_a_memory_that_is_still_too_small_is_an_error(holds: int, limit: int, told: tuple[int, str]) -> None:
    tower, _ = opened(holds, NO_MEMORY[0], max_batch=limit)
    with pytest.raises(
        VitaError,
        match=rf"tower 'clip' is out of memory with a batch of {told[0]}: CUDA out of memory\. Try: {told[1]}",
    ):
        tower(torch.randn(4, 3, 56, 56))


@pytest.mark.reliability(
    door="a tower",
    fault="a CUDA error",
    expected="an error that names the tower",
)
def test_an_error_of_the_device_names_the_tower() -> None:
    tower, _ = opened(0, RuntimeError("CUDA error: an illegal memory access was encountered\nSearch for it"))
    with pytest.raises(
        VitaError, match=r"tower 'clip': the device failed: CUDA error: an illegal .* encountered\. No further"
    ):
        tower(torch.randn(1, 3, 56, 56))
    tower, _ = opened(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        tower(torch.randn(1, 3, 56, 56))


def test_lists_are_halved_too() -> None:
    def run(part: list[int]) -> int:
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sum(part)

    with pytest.warns(UserWarning, match="goes on with 2"):
        assert [*in_memory(run, [1, 2, 3, 4, 5], 5, "clip")] == [([1, 2], 3), ([3, 4], 7), ([5], 5)]
