"""How programs that pick greedily are launched: one place for what their launches have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune.kernels import constant

__all__ = ["Launch", "share_out"]


@dataclass(frozen=True)
class Launch:
    """A launch of ``programs`` programs a sample, which write picks.

    Parameters
    ----------
    batch : int
    counts : tuple of int
        Picks of each row.
    device : torch.device
    programs : int
        Programs that share a sample; more than one are launched cooperatively, for they wait for one another.
    warps : int
        Of a program.
    uniform : bool, default True
        Whether rows that pick equally many are alike; then no tensor of numbers a row is needed.
    """

    batch: int
    counts: tuple[int, ...]
    device: torch.device
    programs: int
    warps: int
    uniform: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Programs a sample, samples."""
        return self.programs, self.batch

    @property
    def most(self) -> int:
        """Picks of the row that picks most."""
        return max(self.counts)

    @property
    def even(self) -> bool:
        """Whether all rows do the same."""
        return self.uniform and min(self.counts) == self.most

    def picks(self) -> Tensor:
        """Where picks are written, (B, most)."""
        return torch.empty(self.batch, self.most, dtype=torch.int64, device=self.device)

    def rows(self, numbers: tuple[int, ...], unused: Tensor) -> Tensor:
        """Whole numbers, one a row, (B,); ``unused`` where all rows do the same, as kernels do not look then."""
        return unused if self.even else constant(numbers, self.device)

    def slots(self, unused: Tensor) -> Tensor:
        """Where programs that share a sample exchange picks, (B, most, programs); ``unused`` where none share one."""
        if self.programs == 1:
            return unused
        return torch.zeros(self.batch, self.most, self.programs, dtype=torch.int64, device=self.device)

    @property
    def options(self) -> dict[str, Any]:
        """Of every such launch; no fused multiply-add, so that numbers are those of tensor operations."""
        return {
            "EVEN": self.even,
            "PROGRAMS": self.programs,
            "num_warps": self.warps,
            "enable_fp_fusion": False,
            "launch_cooperative_grid": self.programs > 1,
        }


def share_out(width: int, batch: int, device: torch.device, least: int) -> int:
    """Programs that share ``width`` candidates, a power of two: as many as run at once, ``least`` or more for each."""
    if device.type != "cuda":
        return 1
    room = max(1, torch.cuda.get_device_properties(device).multi_processor_count // batch)
    programs = 1
    while 2 * programs <= room and width // programs > least:
        programs *= 2
    return programs
