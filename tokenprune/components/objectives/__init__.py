"""What a set of visual tokens is worth: gains of candidates given the picks so far."""

from tokenprune.components.objectives.dispersion import GraphCut, MeanDispersion
from tokenprune.components.objectives.extremum import (
    ExtremumObjective,
    ExtremumState,
    MaximalMarginalRelevance,
    MaxMin,
)
from tokenprune.components.objectives.facility import Coverage, FacilityLocation, PMICoverage
from tokenprune.components.objectives.logdet import LogDeterminant
from tokenprune.components.objectives.modular import Modular
from tokenprune.components.objectives.salient import SalientCoverage

__all__ = [
    "Coverage",
    "ExtremumObjective",
    "ExtremumState",
    "FacilityLocation",
    "GraphCut",
    "LogDeterminant",
    "MaxMin",
    "MaximalMarginalRelevance",
    "MeanDispersion",
    "Modular",
    "PMICoverage",
    "SalientCoverage",
]
