"""Ablations: what a file may say, and what comes of it."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import tokenprune as tp
from tokenprune.cli import app
from tokenprune.core.errors import ConfigError, TokenPruneError, UnknownNameError, UnknownOptionError
from tokenprune.core.registry import build_component, list_components, registry
from tokenprune.data.items import scene_items
from tokenprune.evaluation.ablation import ablate, ablation_table, pooled
from tokenprune.evaluation.ablation_config import CONFIGS, Ablation, ablations
from tokenprune.evaluation.conditions import conditions
from tokenprune.hf.adapters.base import adapter_for
from tokenprune.report.ablation import charts, write_figure, write_page
from tokenprune.zoo.tiny import tiny_llava, tiny_processor

CHECKOUT = CONFIGS

GIVEN: dict[str, Any] = {
    "title": "A trial",
    "source": "none",
    "budgets": [12, 6],
    "groups": {"open": ["gqa"], "closed": ["pope", "mme"]},
    "base": {"strategy": "mi-pruner"},
    "vary": {"aggregator": ["max", {"name": "renyi", "order": 3}], "lam": [0.5, {"label": "relevance", "value": 1}]},
    "reference": ["max"],
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**GIVEN, **changes}.items() if v is not None}))
    return path


def test_options_are_crossed(tmp_path: Path) -> None:
    made = Ablation.read(written(tmp_path))
    assert made.name == "trial"
    assert made.families == ["pope", "gqa", "mme"]
    assert [v.label for v in made.variants] == [
        "max + lam 0.5",
        "max + relevance",
        "renyi + lam 0.5",
        "renyi + relevance",
    ]
    assert tp.build(made.variants[3].strategy) == tp.build("mi-pruner", aggregator={"name": "renyi", "order": 3}, lam=1)
    assert [made.reference_of(v.label) for v in made.variants] == ["max + lam 0.5", "max + relevance"] * 2
    assert made.reference_of("full") is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vary": None}, "'vary' is missing"),
        ({"vary": {"aggregator": "max"}}, "a list of values"),
        ({"vary": {"aggregator": ["max", "max"]}}, "two rows are called 'max'"),
        ({"vary": {"lam": [{"label": "random", "value": 1}]}, "reference": None}, "two rows are called 'random'"),
        ({"figures": "curves"}, "did you mean 'figure'"),
        ({"figure": "curve"}, "did you mean 'curves'"),
        ({"figure": "heatmap", "vary": {"aggregator": ["max", "mean"]}}, "two options"),
        ({"groups": {"open": ["gqua"]}}, "did you mean 'gqa'"),
        ({"reference": ["mean"]}, "is no row"),
        ({"reference": "max"}, "reference must be a list"),
        ({"budgets": 64}, "budgets must be a list"),
        ({"budgets": []}, "budgets must be a list"),
        ({"budgets": [64, True]}, "budgets must be a list"),
        ({"budgets": ["64"]}, "budgets must be a list"),
        ({"groups": ["gqa"]}, "groups must be a mapping"),
        ({"groups": {"all": "gqa"}}, "groups: all must be a list"),
        ({"groups": {"all": [["gqa"]]}}, "no family of questions"),
        ({"paper": "none"}, "paper must be a mapping"),
        ({"paper": {"values": [1]}}, "paper: values must be a mapping"),
        ({"paper": {"values": {"max + lam 0.5": 3}}}, "max \\+ lam 0.5 must be a mapping"),
        ({"paper": {"values": {"max + lam 0.6": {}}}}, "did you mean 'max \\+ lam 0.5'"),
    ],
)
def test_mistakes_in_a_file_are_named(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Ablation.read(written(tmp_path, **changes))


def test_variants_are_built_when_a_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="lam"):
        Ablation.read(written(tmp_path, vary={"lamb": [1]}, reference=None))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"trial\.yaml"):
        Ablation.read(path)


def test_names_are_looked_up(tmp_path: Path) -> None:
    assert [a.name for a in ablations("all", CHECKOUT)] == sorted(path.stem for path in CHECKOUT.glob("*.yaml"))
    assert [a.name for a in ablations("fig-6c", CHECKOUT)] == ["fig-6c"]
    assert [a.name for a in ablations(str(written(tmp_path)), CHECKOUT)] == ["trial"]
    with pytest.raises(UnknownNameError, match="fig-6c"):
        ablations("fig-6d", CHECKOUT)
    with pytest.raises(ConfigError, match="--configs"):
        ablations("fig-6c", tmp_path / "nothing")


def stills() -> set[str]:
    """Selectors that are not about frames of videos."""
    return {entry.name for entry in registry.entries("selectors") if ".video." not in entry.target}


def test_the_cross_leaves_out_nothing_that_ships() -> None:
    [crossed] = ablations("scorers-x-selectors", CHECKOUT)
    available = adapter_for(tiny_llava(side=2)).available
    # scorers and selectors of a language model's layers need signals that are not there before it runs
    fit = {name for name in list_components("scorers") if build_component("scorers", name).requires <= available}
    # cls-attention is a signal's score; without a CLIP beside the model joint-contrast orders by mean similarity
    # speaking shows another scorer fewer words, adaptive keeps fewer of another selector's picks: each has its ablation
    assert set(crossed.values_of(0)) == fit - {"signal", "joint-contrast", "speaking"}
    assert set(crossed.values_of(1)) == stills() - {
        "adaptive", "candidates", "pivot-quota", "anchors-and-buffers", "outliers", "outlier-grid", "salient-and-grid"
    }  # fmt: skip
    [objectives] = ablations("objectives", CHECKOUT)
    assert set(objectives.values_of(0)) == set(list_components("objectives"))


def test_a_row_may_be_any_composition() -> None:
    spec = {"scorer": {"name": "pmi", "aggregator": "mean"}, "selector": "top-k"}
    rows = conditions(["mi-pruner", {"label": "mine", "strategy": spec}], [4])
    assert [row.label for row in rows if row.kind == "strategy" and row.label != "random"] == ["mi-pruner", "mine"]
    assert rows[-1].strategy == tp.build(spec)


def test_numbers_are_pooled_over_a_group_and_tested_against_the_reference(tmp_path: Path) -> None:
    made = Ablation.read(written(tmp_path, paper={"model": "M", "values": {"renyi + lam 0.5": {"open": {6: 55.5}}}}))
    rates = {"max + lam 0.5": 10, "max + relevance": 0, "renyi + lam 0.5": 0, "renyi + relevance": 0, "random": 5}
    lines = []
    for label, right in [*rates.items(), ("full", 10), ("wrong image", 0), ("oracle", 10)]:
        for keep in (0,) if label in ("full", "wrong image") else (12, 6):
            for family in ("gqa", "pope", "mme"):
                for i in range(10):
                    lines.append(
                        {"strategy": label, "keep": keep, "draw": 0, "sample": f"{family}{i}", "image": f"{i}"}
                        | {
                            "task": f"scenes-{family}",
                            "family": "part",
                            "binary": False,
                            "answer": "x",
                            "prediction": "x",
                        }
                        | {"correct": i < right and (family != "mme" or label == "full"), "tokens": keep}
                        | {"layer_average_tokens": keep, "flops": 1, "kv_bytes": 1}
                    )
    rows = {(row.label, row.group, row.keep): row for row in pooled(made, lines)}
    assert len(rows) == 2 * (2 * 6 + 2)
    assert rows["max + lam 0.5", "open", 6].value == 1
    assert rows["max + lam 0.5", "closed", 6].value == 0.5
    assert rows["max + lam 0.5", "closed", 6].n == 20
    assert rows["max + lam 0.5", "open", 6].p_reference is None
    # ten pictures, all of which differ: 2 of 2^10 sign patterns
    assert rows["renyi + lam 0.5", "open", 6].p_reference == pytest.approx(2 / 2**10)
    assert rows["renyi + relevance", "open", 6].p_reference == 1.0  # its reference is "max + relevance"
    assert rows["renyi + lam 0.5", "open", 6].paper == pytest.approx(0.555)
    assert rows["renyi + lam 0.5", "open", 12].paper is None
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(ablation_table(made, list(rows.values())))
    text = console.export_text()
    assert "0.0%* (paper 55.50%)" in text
    assert text.index("max + lam 0.5 (reference)") < text.index("random")


@pytest.mark.parametrize("figure", ["curves", "sweep", "heatmap"])
def test_an_ablation_from_file_to_figure(figure: str, tmp_path: Path) -> None:
    made = Ablation.read(written(tmp_path, figure=figure, title="<script>"))
    model, processor = tiny_llava(side=6), tiny_processor(side=6)
    out = tmp_path / "out"
    items = scene_items(made.families, 6, 0)
    rows = ablate(model, processor, made, items, out, {"model": "tiny"}, facts={"model": "tiny"}, batch_size=6)
    with (out / "table.csv").open() as file:
        assert [(r["label"], int(r["keep"]), r["group"]) for r in csv.DictReader(file)] == [
            (row.label, row.keep, row.group) for row in rows
        ]
    assert json.loads((out / "table.json").read_text())["rows"][0]["label"] == rows[0].label
    assert len(charts(made, rows)) == 4  # two groups, by two budgets or two values of lam
    vector, picture = write_figure(out, made, rows)
    axes = ElementTree.parse(vector).getroot().findall(".//*[@id]")
    assert sum(str(part.get("id")).startswith("axes_") for part in axes) == 4
    assert Image.open(picture).size[0] > 1000
    page = write_page(tmp_path, [(made, rows)], {}).read_text()
    assert "<script" not in page
    # what is there is not asked again, and other options are refused
    before = (out / "results.jsonl").read_bytes()
    assert ablate(model, processor, made, items, out, {"model": "tiny"}, batch_size=6) == rows
    assert (out / "results.jsonl").read_bytes() == before
    other = Ablation.read(written(tmp_path, vary={"lam": [0, 1]}, reference=None))
    with pytest.raises(ConfigError, match="variants"):
        ablate(model, processor, other, items, out, {"model": "tiny"})


def test_the_command_with_too_few_questions_for_every_family(tmp_path: Path) -> None:
    words = ["ablate", "table-5", "--out", str(tmp_path / "out"), "--model", "tiny", "--limit", "4"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "(paper 56.88%)" in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "table-5"]
    assert {"table.csv", "table.json", "figure.svg", "figure.png"} <= {
        path.name for path in (tmp_path / "out" / "table-5").iterdir()
    }


def test_an_unknown_ablation_is_answered_before_a_model_is_loaded(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["ablate", "table-6", "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, TokenPruneError)
    assert "table-5" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_some_families_are_asked_alone(tmp_path: Path) -> None:
    made = Ablation.read(written(tmp_path)).only(["pope"])
    assert made.groups == {"closed": ("pope",)}
    assert made.families == ["pope"]
    with pytest.raises(ConfigError, match="asks none of the families textvqa"):
        made.only(["textvqa"])
    with pytest.raises(ConfigError, match=r"no 'popr'.*pope"):
        made.only(["popr"])


def test_families_of_data_are_not_chosen_by_type(tmp_path: Path) -> None:
    words = ["ablate", "table-5", "--data", "x.jsonl", "--families", "gqa", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    assert "--families" in str(done.exception)


def test_groups_may_have_any_name(tmp_path: Path) -> None:
    made = Ablation.read(written(tmp_path, groups={"[/b]": ["gqa"]}))
    console = Console(width=200, file=io.StringIO())
    console.print(ablation_table(made, []))
    assert "[/b] 12" in console.file.getvalue()  # type: ignore[attr-defined]
