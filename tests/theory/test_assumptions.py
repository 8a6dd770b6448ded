"""Every assumption is met by something and missed by something, and exactness is what a reader can check by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tokenprune_theory import models
from tokenprune_theory.assumptions import ASSUMPTIONS, find_assumption
from tokenprune_theory.discrete import Joint
from tokenprune_theory.instances import (
    Channel,
    Cosines,
    Logits,
    Numbers,
    Step,
    Tokens,
    as_fraction,
    fractions_in,
    written,
)

PAIR = Tokens.of([[1, 0], [0, 1]], [[1, 0], [1, 1]], Fraction(1, 2))
COPIES = models.functions_of_bits(1, [1], [[1], [1]])

MET = {
    "joint": COPIES,
    "independence": COPIES,
    "softmax": Channel.of_counts((1, 2), (3, 1)),
    "cosines": PAIR,
    "stated numbers": Numbers({"N": 576, "N_keep": 32}),
    "pairs independent": models.parity(3),
    "diminishing gains": COPIES,
    "distinct": Channel.of_counts((1, 2), (2, 1)),
    "uniform text": Channel.of_counts((1, 2), (2, 1)),
    "no ties": PAIR,
    "something picked": Step(PAIR, 0.5, (0,)),
    "relevance only": Step(PAIR, 1),
    "equal weights": Step(PAIR, 0.5),
    "columns kept": Logits(np.array([[1.0, 0], [0, 1]])),
}
MISSED = {
    "joint": None,  # what is no distribution is no Joint
    "independence": models.parity(2),
    "softmax": Channel(np.eye(2)),
    "cosines": Cosines(np.array([[1.0, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]]), 0.5),
    "stated numbers": Numbers({"N": 577}),
    "pairs independent": models.parity(2),
    "diminishing gains": models.parity(2),
    "distinct": Channel.of_counts((1, 2), (1, 2)),
    "uniform text": Channel.of_counts((1, 2), (1, 2)),
    "no ties": Tokens.of([[1, 0], [0, 1]], [[1, 0], [0, 1]], 1),
    "something picked": Step(PAIR, 0.5),
    "relevance only": Step(PAIR, 0.5),
    "equal weights": Step(PAIR, 0.8),
    "columns kept": Logits(np.array([[100.0, -100], [99, -99]])),
}


@pytest.mark.parametrize("id", ASSUMPTIONS)
def test_an_assumption_is_met_and_missed(id):
    assumption = find_assumption(id)
    assert assumption.met(MET[id])
    assert not assumption.missed(MET[id])
    if MISSED[id] is not None:
        assert assumption.missed(MISSED[id])
        assert not assumption.met(MISSED[id])


def test_what_an_assumption_does_not_speak_of_neither_meets_nor_misses_it():
    assert not find_assumption("independence").met(PAIR)
    assert not find_assumption("independence").missed(PAIR)


def test_all_of_a_pair_has_to_meet_it():
    softmax = find_assumption("softmax")
    good, bad = Channel.of_counts((1, 2)), Channel(np.eye(2))
    assert softmax.met((good, good))
    assert not softmax.met((good, bad))
    assert softmax.missed((good, bad))


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_a_temperature_is_positive(tau):
    assert not find_assumption("cosines").met(Tokens.of([[1, 0]], [[1, 0]], tau))


def test_a_zero_vector_has_no_direction():
    assert not find_assumption("cosines").met(Tokens.of([[0, 0]], [[1, 0]], 1))


def test_independence_is_that_of_every_candidate_from_every_set():
    """Against the definition: the largest MI(v;S|T), over all of them."""
    rng = np.random.default_rng(0)
    for joint in (models.random_naive_bayes(rng, n=3), models.random_joint(rng, (2, 2, 2, 2)), models.parity(3)):
        worst = 0.0
        names = ("v0", "v1", "v2")
        for v in names:
            others = [u for u in names if u != v]
            for s in ([others[0]], [others[1]], others):
                worst = max(worst, abs(joint.mutual_information(v, s, "t")))
        assert find_assumption("independence").met(joint) == (worst < 1e-12)


@pytest.mark.parametrize(
    "fraction", [Fraction(1, 3), Fraction(-7, 12), Fraction(9801, 40000), Fraction(5), Fraction(0)]
)
def test_fractions_are_found_again(fraction):
    assert as_fraction(float(fraction)) == fraction
    assert fractions_in(np.array([float(fraction)]))


@pytest.mark.parametrize("number", [np.pi, np.sqrt(0.5), np.exp(-1), float("nan"), float("inf")])
def test_what_is_no_fraction_of_small_numbers_is_not_exact(number):
    assert as_fraction(number) is None
    assert not fractions_in((Channel(np.array([[number, 1.0]])), 3))


def test_instances_are_written_out():
    assert written(Step(PAIR, 0.5, (1,))) == {
        "kind": "step",
        "tokens": {
            "kind": "tokens",
            "visual": [["1", "0"], ["0", "1"]],
            "text": [["1", "0"], ["1", "1"]],
            "tau": "1/2",
        },
        "lam": "1/2",
        "picks": ["1"],
    }
    halves = Joint(np.eye(2) / 2, ("t", "v0"))
    assert written(halves) == {"joint of": ["t", "v0"], "cells": {"0,0": "1/2", "1,1": "1/2"}}
