"""What a strategy is, in a hash: equal for equals in any process, different after any change that may matter."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.results.fingerprint import identity, weights_fingerprint
from tokenprune.zoo.tiny import tiny_llava


def test_equal_strategies_share_it_and_others_do_not() -> None:
    names = tp.list_strategies()
    found = {name: identity(tp.build(name)) for name in names}
    assert len(set(found.values())) == len(names)
    assert found == {name: identity(tp.build(name)) for name in names}
    assert identity(tp.build("mi-pruner", lam=0.7)) != found["mi-pruner"] == identity(tp.build("mi-pruner", lam=0.5))


def test_it_is_the_same_in_another_process() -> None:
    code = "import tokenprune as tp; from tokenprune.results.fingerprint import identity\n"
    code += "print(identity(tp.build('cdpruner')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == identity(tp.build("cdpruner"))


def test_the_source_of_a_part_is_part_of_it(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "a_part_of_mine.py"
    file.write_text("def weigh(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    weigh = __import__("a_part_of_mine").weigh
    before = identity(weigh)
    assert identity(weigh) == before
    file.write_text("def weigh(x):\n    return 2 * x\n")
    assert identity(weigh) != before


@dataclass
class Holder:
    value: Any = None
    me: Any = field(default=None, repr=False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        ({"a": 1}, {"a": 2}),
        ((1, 2), (1, (2,))),
        (frozenset({1}), frozenset({2})),
        (1, "1"),
        (None, 0),
        (len, str),
    ],
)
def test_values_count(one: Any, other: Any) -> None:
    assert identity(Holder(one)) == identity(Holder(one))
    assert identity(Holder(one)) != identity(Holder(other))


def test_a_circle_ends() -> None:
    holder = Holder(1)
    holder.me = holder
    assert identity(holder) == identity(holder)


def test_weights() -> None:
    model = tiny_llava(side=4)
    before = weights_fingerprint(model)
    assert weights_fingerprint(tiny_llava(side=4)) == before
    assert weights_fingerprint(tiny_llava(side=4).to(torch.bfloat16)) != before
    with torch.no_grad():
        model.lm_head.weight.add_(0.01)
    assert weights_fingerprint(model) != before
