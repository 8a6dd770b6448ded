"""A strategy looks the same in every report, and unlike every other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.core.registry import all_entries
from tokenprune.report.looks import COLORS, MARKERS, OTHERS, listed, styles

SCALE = ("full", "wrong image", "oracle", "random")
SEPARATE = 0.07
"""Distance in OKLab at which nobody takes one colour for the other side by side; 0.02 is just noticeable."""


def oklab(color: str) -> np.ndarray:
    """Where a colour lies in Ottosson's OKLab."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]) @ light
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(to_lab) @ np.cbrt(cones)


def test_no_two_colours_are_taken_for_each_other() -> None:
    apart = [float(np.linalg.norm(oklab(a) - oklab(b))) for a, b in combinations(COLORS, 2)]
    assert min(apart) > SEPARATE


def test_every_strategy_that_ships_has_a_place_of_its_own() -> None:
    ours = [entry.name for entry in all_entries(["strategies"]) if entry.target.startswith("tokenprune_strategies")]
    assert len(ours) > 20
    assert set(ours) - {"random"} <= set(listed())
    assert len(set(listed())) == len(listed()) <= len(COLORS) - len(OTHERS)
    colours = [look.color for look in styles([*listed(), *SCALE]).values()]
    assert len(set(colours)) == len(colours)


@given(st.sets(st.text(max_size=5), max_size=len(OTHERS) * 5))
def test_looks_are_distinct_whatever_the_names(strangers: set[str]) -> None:
    everyone = {*strangers, *listed(), *SCALE}
    looks = styles(sorted(everyone))
    assert looks.keys() == everyone
    assert len(set(looks.values())) == len(everyone)
    if len(strangers) <= len(OTHERS):
        assert len({look.color for look in looks.values()}) == len(everyone)


@given(st.sets(st.sampled_from([*listed(), *SCALE]), min_size=1), st.sets(st.text(max_size=4), max_size=4))
def test_what_else_is_in_a_report_changes_no_look(some: set[str], strangers: set[str]) -> None:
    everything = styles([*listed(), *SCALE])
    found = styles([*some, *strangers])
    assert {name: found[name] for name in some} == {name: everything[name] for name in some}


@pytest.mark.parametrize("name", ["mine", "mi-pruner:lam=0.3"])
def test_a_name_that_is_not_listed_keeps_its_look_beside_those_that_are(name: str) -> None:
    assert styles([name])[name] == styles([name, *listed()])[name]
    assert len(styles([str(i) for i in range(200)])) == 200  # more than there are looks
    assert len(set(MARKERS)) == len(MARKERS)
