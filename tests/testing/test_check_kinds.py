"""check(part) of kinds other than scorers and objectives: wrong ones are refused, those that ship pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

import tokenprune as tp
from tokenprune.components.flow import InformationFlow
from tokenprune.components.layerwise.rules import Share
from tokenprune.components.objectives import FacilityLocation, MaximalMarginalRelevance
from tokenprune.components.outliers import Outliers
from tokenprune.components.pairwise import Cosine, CosineTable
from tokenprune.components.selectors import Greedy, Prefilter, TwoStage
from tokenprune.core.adaptive import Adaptive, BudgetRule, Evidence
from tokenprune.core.errors import CheckError
from tokenprune.core.groups import Groups, Picks
from tokenprune.core.indexing import gather_tokens
from tokenprune.core.kinds import Aggregator, Merged, Merger, Objective, PairTable, Pairwise, Scorer, Selector
from tokenprune.core.layer_kinds import DecodeRule, KeepRule, Measure
from tokenprune.core.ranking import TopK, top_k, within_budget
from tokenprune.core.registry import list_components, registry
from tokenprune.core.schedule import DecodeEvent, LayerEvent, LayerSchedule
from tokenprune.testing import check

# Selectors


class RowZeroDecides(Selector):
    """Where no row is ragged, the first row's ranking is everybody's."""

    def select(self, problem):
        same = problem.available.all() and len(problem.scores) > 1
        scores = problem.scores[:1].expand_as(problem.scores) if same else problem.scores
        return top_k(scores, problem.counts, problem.available)


class CountsPadding(Selector):
    """Candidates nearest to the mean of the row, padding counted."""

    requires = frozenset({"visual"})

    def select(self, problem):
        visual = problem.features.visual
        near = -(visual - visual.mean(1, keepdim=True)).norm(dim=-1)
        return top_k(near, problem.counts, problem.available)


class ForgetsAvailable(Selector):
    """All real tokens are candidates, whatever an earlier round took."""

    def select(self, problem):
        return top_k(problem.scores, problem.counts, problem.features.valid())


class NotNested(Selector):
    """Best last, which is no prefix of a larger budget."""

    nested = True

    def select(self, problem):
        ranked = [row[:k].flip(0) for row, k in zip(TopK().select(problem), problem.counts, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(ranked, batch_first=True, padding_value=-1)


class SaysNoScores(TopK):
    uses_scores = False


class SortsInPlace(Selector):
    """Marks picked tokens in the scores that it was given."""

    def select(self, problem):
        order = top_k(problem.scores, problem.counts, problem.available)
        problem.scores.sub_(problem.scores.mean())
        return order


class SaysNoBudget(TopK):
    uses_budget = False
    own_counts = True


class NeverAll(Selector):
    """Neutral, it says, and drops the worst token all the same."""

    own_counts = True

    def select(self, problem):
        counts = tuple(max(1, k - (k == n)) for k, n in zip(problem.counts, problem.size(), strict=True))
        return top_k(problem.scores, counts, problem.available)


class JoinsTheDropped(Selector):
    """Every token joins the last one of its row, kept or not."""

    gives_groups = True

    def select(self, problem):
        return TopK().select(problem)

    def choose(self, problem):
        order = self.select(problem)
        n = problem.available.shape[1]
        last = (problem.available * torch.arange(n)).amax(1)
        token = torch.arange(n).expand(len(order), n).masked_fill(~problem.available, -1)
        members = torch.stack([token, last.unsqueeze(1).expand_as(token).masked_fill(token < 0, -1)], dim=-1)
        return Picks(order, Groups(members=members, weights=(token >= 0).double()))


class ChooseDiffers(TopK):
    """One answer from select, another from choose."""

    def choose(self, problem):
        return Picks(within_budget(problem.available.int().argsort(1, descending=True, stable=True), problem.counts))


class ManyPadded(Selector):
    """Two of what was asked for are lost from seven picks on."""

    def select(self, problem):
        order = TopK().select(problem)
        return order.masked_fill(torch.arange(order.shape[1]) >= 7, -1)


# Mergers


class MeanWithPadding(Merger):
    """Kept tokens move towards the mean of all places."""

    requires = frozenset({"visual"})

    def merge(self, features, order):
        mean = features.visual.mean(1, keepdim=True)
        return Merged(((gather_tokens(features.visual, order) + mean) / 2).where((order >= 0).unsqueeze(-1), 0), order)


class MeanOfBatch(Merger):
    requires = frozenset({"visual"})

    def merge(self, features, order):
        real = features.visual[features.valid()].mean(0)
        return Merged((gather_tokens(features.visual, order) + real).where((order >= 0).unsqueeze(-1), 0), order)


class OnePlace(Merger):
    """All merged tokens stand at the first pick."""

    requires = frozenset({"visual"})

    def merge(self, features, order):
        return Merged(gather_tokens(features.visual, order), order[:, :1].expand_as(order))


class SaysNeutral(Merger):
    """In pick order, which moves tokens even where none is dropped."""

    requires = frozenset({"visual"})
    neutral = True

    def merge(self, features, order):
        return Merged(gather_tokens(features.visual, order), order)


class LosesOne(Merger):
    requires = frozenset({"visual"})

    def merge(self, features, order):
        short = order.masked_fill((torch.arange(order.shape[1]) == order.shape[1] - 1) & (order.shape[1] > 2), -1)
        return Merged(gather_tokens(features.visual, short), short)


class HalfSums(Merger):
    """A large constant comes and goes in the precision of the model."""

    requires = frozenset({"visual"})

    def merge(self, features, order):
        return Merged(gather_tokens((features.visual + 1000) - 1000, order), order)


class MinusOneIsAToken(Merger):
    """Padding of the picks is read as the last token, and weighs."""

    requires = frozenset({"visual"})

    def merge(self, features, order):
        kept = features.visual.gather(1, (order % features.n_visual).unsqueeze(-1).expand(-1, -1, 4))
        tokens = (kept + kept.mean(1, keepdim=True)).where((order >= 0).unsqueeze(-1), 0)
        return Merged(tokens, order)


class WrongSpace(Merger):
    """Encoder features that call themselves visual tokens of the wrong width."""

    requires = frozenset({"visual"})

    def merge(self, features, order):
        return Merged(gather_tokens(features.visual, order)[..., :-1], order)


# Tables over pairs


class Directed(PairTable):
    """Columns are rows of the dense table: harmless only where it is symmetric."""

    def __init__(self, table):
        self.table = table

    def column(self, index):
        return self.table[torch.arange(len(index)), index]

    def dense(self):
        return self.table


class Transposed(Pairwise):
    requires = frozenset({"visual"})

    def table(self, features):
        visual = features.visual
        return Directed((visual.unsqueeze(2) - visual.unsqueeze(1)).sum(-1))


class ScaledByBatch(Pairwise):
    requires = frozenset({"visual"})

    def table(self, features):
        dense = features.visual.float() @ features.visual.float().mT
        return Directed(dense / dense.abs().max())


class HalfSquares(Pairwise):
    """Products in the precision of the model, whose squares overflow."""

    requires = frozenset({"visual"})

    def table(self, features):
        unit = features.visual / features.visual.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-3)
        return Directed(unit @ unit.mT)


class SeesNothingOfPadding(Cosine):
    """Less the mean cosine to all places of the row, padding among them."""

    def table(self, features):
        dense = CosineTable(features.visual).dense()
        return Directed(dense - dense.mean((1, 2), keepdim=True))


# Between layers


class SmallestForAll(KeepRule):
    """All units keep what the smallest one does."""

    def counts(self, context):
        return (min(context.keep),) * len(context.keep)


class Fractions(KeepRule):
    def counts(self, context):
        return tuple(keep / 2 for keep in context.keep)


class ShowsPadding(DecodeRule):
    def visible(self, attention, before, valid):
        return attention >= 0


class BatchMean(Measure):
    name = "level"
    requires = frozenset({"visual"})

    def measure(self, features):
        return features.visual.mean((1, 2)) - features.visual.mean()


class AsMeasured(KeepRule):
    """Says that counts follow from budgets, and looks at what was measured."""

    def counts(self, context):
        level = context.measured.get("level")
        return tuple(k + (level is not None and n > k) for k, n in zip(context.keep, context.present, strict=True))


class Level(Measure):
    name = "level"
    requires = frozenset({"visual"})

    def measure(self, features):
        return features.visual.double().sum((1, 2))


class AttentionOfBatch(Scorer):
    requires = frozenset({"attention"})

    def score(self, features):
        attention = features["attention"].mean((1, 2))
        return attention + attention.flip(0)


class Reads(Scorer):
    """A scorer between layers that reads more than it says."""

    requires = frozenset({"attention"})

    def score(self, features):
        return features["attention"].mean((1, 2)) + features["llm_keys"].sum(-1)


def schedule(scorer: Scorer, rule: KeepRule | None = None, *measures: Measure) -> LayerSchedule:
    event = LayerEvent(2, tp.Strategy(scorer), rule or Share(1.0), measures=measures)
    return LayerSchedule("mine", (event,))


def attention() -> Scorer:
    made: Scorer = registry.build_component("scorers", "llm-attention")
    return made


# Sly ones: right nearly always


@dataclass(frozen=True)
class FromTheNinth(Objective):
    """Facility location that turns supermodular with the ninth pick."""

    non_increasing_gains = submodular = monotone = True
    uses_scores = False

    def start(self, features, scores):
        return FacilityLocation().start(features, scores), torch.zeros(len(scores), dtype=torch.long)

    def gains(self, state):
        return FacilityLocation().gains(state[0]) * (1 + (state[1] > 8)).unsqueeze(1)

    def take(self, state, index):
        return FacilityLocation().take(state[0], index), state[1] + (index >= 0)


class RowNumbers(Objective):
    """Which row of the batch a picture stands in decides."""

    def start(self, features, scores):
        return scores * (1 + torch.arange(len(scores), dtype=scores.dtype)).unsqueeze(1)

    def gains(self, state):
        return state * torch.arange(state.shape[1]) if len(state) > 2 else state

    def take(self, state, index):
        return state


class ForgetsLongPasts(FacilityLocation):
    """Of an earlier round only the first pick is taken up."""

    def resume(self, state, picks):
        return super().resume(state, picks[:, :1])


class LosesAtOracle(FacilityLocation):
    """The oracle stops taking after three picks."""

    def oracle(self, state, row):
        oracle, taken = super().oracle(state, row), []
        take = oracle.take

        def three(pick):
            taken.append(pick)
            if len(taken) < 4:
                take(pick)

        oracle.take = three
        return oracle


class Remembers(Scorer):
    """What was computed once for a shape is handed out for every other picture of it."""

    requires = frozenset({"visual"})
    seen: dict[tuple[int, ...], torch.Tensor] = {}  # noqa: RUF012

    def score(self, features):
        shape = tuple(features.visual.shape)
        return self.seen.setdefault(shape, features.visual.double().norm(dim=-1))


class Centres(Scorer):
    """Subtracts the mean from the signal itself, in place."""

    requires = frozenset({"visual"})

    def score(self, features):
        features.visual[:, :1] *= 0.5
        return torch.zeros(features.batch, features.n_visual)


class HalfNorms(Scorer):
    """Squares overflow in float16, and are then called large."""

    requires = frozenset({"visual"})

    def score(self, features):
        return features.visual.square().sum(-1).nan_to_num(posinf=1.0)


class PaddedPlaces(Scorer):
    """Early places first, padding counted as places."""

    requires = frozenset({"visual"})

    def score(self, features):
        return -torch.arange(features.n_visual, dtype=torch.float64).expand(features.batch, -1)


class TextOfPadding(Scorer):
    """Mean cosine to the text, padding of the text among it."""

    requires = frozenset({"visual", "text"})

    def score(self, features):
        return (features.visual.double() @ features.text.double().mT).mean(-1)


class ScoresInPlace(Objective):
    """Shifts the scores that it was given, which reports then show."""

    def start(self, features, scores):
        return scores.sub_(scores.amax(1, keepdim=True) + 1)

    def gains(self, state):
        return state

    def take(self, state, index):
        return state


class FirstColumns(Aggregator):
    """Takes as many columns from the front as the mask has real ones, wherever these stand."""

    def __call__(self, table, log_weights=None, mask=None):
        return table.amax(-1) if mask is None else table[..., : int(mask[0].sum())].amax(-1)


class WantsSizes(Selector):
    """Takes for granted that the host knows how many candidates there are."""

    def select(self, problem):
        return top_k(
            problem.scores,
            tuple(min(pair) for pair in zip(problem.counts, problem.sizes, strict=True)),
            problem.available,
        )


class ClaimsEncoder(Merger):
    """Visual tokens that are said to be encoder features, and would go through the projector again."""

    requires = frozenset({"visual", "encoder"})

    def merge(self, features, order):
        return Merged(gather_tokens(features.visual, order), order, "encoder")


class SortsPicks(Merger):
    """Sorts the picks themselves."""

    requires = frozenset({"visual"})

    def merge(self, features, order):
        order.copy_(order.sort(1, descending=True).values)
        return Merged(gather_tokens(features.visual, order), order)


class ByTwins(Scorer):
    """How far the nearest other token is, as a share: nothing by nothing where two are alike."""

    requires = frozenset({"visual"})

    def score(self, features):
        visual = features.visual.double()
        far = (visual.unsqueeze(2) - visual.unsqueeze(1)).norm(dim=-1)
        n = far.shape[1]
        nearest = far.masked_fill(torch.eye(n, dtype=torch.bool) | ~features.valid().unsqueeze(1), torch.inf).amin(2)
        return torch.where(nearest.isinf(), 1.0, nearest / nearest)


WRONG: list[Callable[[], object]] = [
    RowZeroDecides, CountsPadding, ForgetsAvailable, NotNested, SaysNoScores, SortsInPlace, SaysNoBudget, NeverAll,
    JoinsTheDropped, ChooseDiffers, ManyPadded, MeanWithPadding, MeanOfBatch, OnePlace, SaysNeutral, LosesOne, HalfSums,
    MinusOneIsAToken, WrongSpace, Transposed, ScaledByBatch, HalfSquares, SeesNothingOfPadding, SmallestForAll,
    Fractions, ShowsPadding, BatchMean, FromTheNinth, RowNumbers, ForgetsLongPasts, LosesAtOracle, Remembers, Centres,
    HalfNorms, PaddedPlaces, TextOfPadding, ScoresInPlace, WantsSizes, ClaimsEncoder, SortsPicks, ByTwins,
]  # fmt: skip

COMPOSED: dict[str, Callable[[], object]] = {
    "a wrong scorer in a strategy": lambda: tp.Strategy(HalfNorms()),
    "a wrong objective in a selector": lambda: tp.Strategy(attention(), Greedy(LosesAtOracle())),
    "a wrong table in an objective": lambda: Greedy(MaximalMarginalRelevance(0.5, SeesNothingOfPadding())),
    "a wrong merger in a strategy": lambda: replace(tp.build("similarity"), merger=OnePlace()),  # type: ignore[type-var]
    "a wrong second round": lambda: TwoStage(None, ForgetsAvailable()),
    "quartiles over the batch": lambda: Outliers(TopK(), over="batch"),
    "one picture decides for all in the encoder": lambda: InformationFlow(over="batch"),
    "a rule that says it follows": lambda: schedule(attention(), AsMeasured(), Level()),
    "other rows inside the language model": lambda: schedule(AttentionOfBatch()),
    "undeclared inside the language model": lambda: schedule(Reads()),
    "a wrong rule inside": lambda: schedule(attention(), SmallestForAll()),
    "a wrong rule while decoding": lambda: LayerSchedule("mine", (), decoding=DecodeEvent(1, ShowsPadding())),
    "a wrong act before": lambda: replace(
        schedule(attention()),
        before=tp.Strategy(HalfNorms()),
    ),
}


@pytest.mark.parametrize("part", WRONG, ids=lambda part: part.__name__)
def test_wrong_parts_are_refused_with_an_instance(part: Callable[[], object]) -> None:
    with pytest.raises(CheckError, match="smallest instance found"):
        check(part())


def test_masks_may_leave_out_what_comes_first() -> None:
    with pytest.raises(CheckError, match="columns that the mask leaves out decide; on table"):
        check(FirstColumns())


@pytest.mark.parametrize("what", COMPOSED)
def test_what_is_wrong_inside_is_found_from_outside(what: str) -> None:
    with pytest.raises(CheckError, match=r"smallest instance found|reads \['llm_keys'\]|needed but was not given"):
        check(COMPOSED[what]())


@pytest.mark.parametrize("kind", ["selectors", "mergers", "pairwise", "stages"])
def test_parts_that_ship_pass(kind: str) -> None:
    needs_options = set()
    for name in list_components(kind):
        try:
            part = registry.build_component(kind, name)
        except tp.TokenPruneError:
            needs_options.add(name)
            continue
        assert check(part, largest=4).instances >= 7, name
    assert needs_options <= {
        "adaptive",
        "anchors-and-buffers",
        "candidates",
        "outliers",
        "prefilter",
        "two-stage",
        "recycle",
    }


@pytest.mark.parametrize(
    "part",
    [
        Outliers(TopK()),
        Prefilter(0.6, Greedy()),
        TwoStage(registry.build_component("scorers", "similarity"), Greedy(), 0.5),
        TwoStage(None, TopK(), 0.5, reserve=1),
    ],
    ids=repr,
)
def test_parts_with_options_pass(part: Selector) -> None:
    report = check(part, largest=4)
    assert report.instances == 13
    assert not report.unchecked


@pytest.mark.parametrize("name", ["captured-mass", "redundancy-knee", "gain-threshold"])
def test_rules_of_budgets_pass_as_the_selectors_they_make(name: str) -> None:
    rule = registry.build_component("budgets", name)
    for report in (check(rule, largest=4), check(Adaptive(rule, Greedy()), largest=4)):
        assert report.instances == 13
        assert not report.unchecked


class _Leaks(BudgetRule):
    """Worth of a row that depends on the other rows of its batch."""

    least = 0.5

    def worth(self, evidence: Evidence) -> torch.Tensor:
        return evidence.scores - evidence.scores.mean()


def test_a_rule_that_looks_at_other_rows_is_refused() -> None:
    with pytest.raises(CheckError, match="smallest instance found"):
        check(_Leaks())


def test_schedules_are_run_without_a_model() -> None:
    report = check(schedule(attention()), largest=4)
    assert report.instances == 26
    assert not report.unchecked
    assert check(schedule(attention(), Share(0.5), Level()), largest=3).instances == 20


STRATEGIES = [name for name in tp.list_strategies() if name != "random"]
"""Draws of 'random' may follow from the batch; its own tests say."""


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_passes(name: str) -> None:
    report = check(tp.build(name), largest=4)
    assert report.instances >= 7
    # 'centre' and the like want one grid for all rows
    assert all("rows on different grids" in why for why in report.unchecked)
