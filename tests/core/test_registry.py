"""Names: listed without imports, matched loosely in errors, never taken twice, and broken plugins are named."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune as tp
from tokenprune.components import aggregators
from tokenprune.core import errors
from tokenprune.core.ranking import TopK
from tokenprune.core.registry import KINDS, Registry, all_entries, build_component
from tokenprune.core.registry import registry as shared
from tokenprune.core.strategy import AnyStrategy

ROOT = Path(__file__).parents[2]

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay out an installed distribution on the import path: entry points by group, and one module."""

    def add(name: str, groups: dict[str, dict[str, str]], module: str = "", *, folder: str = "site") -> Path:
        site = tmp_path / folder
        info = site / f"{name.replace('-', '_')}-0.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        lines = []
        for group, points in groups.items():
            lines += [f"[tokenprune.{group}]", *(f"{key} = {value}" for key, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (site / f"{name.replace('-', '_')}.py").write_text(module)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(str(site))
        return site

    before = set(sys.modules)
    yield add
    for name in set(sys.modules) - before:
        del sys.modules[name]


def python(*args: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=env, check=False, timeout=900)


# --- listing ----------------------------------------------------------------------------------------------------


def test_public_names_are_there() -> None:
    assert {"random", "similarity", "attention", "mi-pruner", "mi-attention"} <= set(tp.list_strategies())
    assert {"max", "mean", "sum", "lse", "renyi"} <= set(tp.list_components("aggregators"))
    assert {"softmax", "minmax"} <= set(tp.list_components("normalizers"))
    for kind in KINDS:
        assert tp.list_components(kind) == sorted(set(tp.list_components(kind)))
        # signals are made by what other packages bring; those that ship come from adapters
        assert tp.list_components(kind) or kind == "signals"


def test_wildcards() -> None:
    assert set(tp.list_strategies("mi*")) >= {"mi-pruner", "mi-attention"}
    assert all(name.startswith("mi") for name in tp.list_strategies("mi*"))
    assert tp.list_components("aggregators", "m?x") == ["max"]
    assert tp.list_components("aggregators", "[ml]*") == ["lse", "max", "mean"]
    assert tp.list_strategies("no-such-*") == []
    assert tp.list_strategies("MI*") == [], "names are matched as they are written"


@pytest.mark.slow
def test_listing_imports_nothing() -> None:
    code = (
        "import json, sys, tokenprune as tp; from tokenprune.core.registry import KINDS, all_entries\n"
        "loaded = set(sys.modules)\n"
        "assert tp.list_strategies() and all_entries()\n"
        "assert [k for k in KINDS if not tp.list_components(k)] in ([], ['signals'])  # plugins alone bring these\n"
        "print(json.dumps([sorted(loaded), sorted(set(sys.modules) - loaded)]))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    loaded, new = json.loads(done.stdout)
    assert [m for m in new if m.startswith(("tokenprune", "transformers"))] == []
    # the framework knows no method by name, and strategies on tensors need no transformers
    assert [m for m in loaded if m.startswith(("tokenprune_", "transformers"))] == []


def test_everything_that_ships_can_be_loaded() -> None:
    for entry in all_entries():
        if entry.origin.startswith("tokenprune-vlm "):
            assert entry.clashes == ()
            assert callable(shared.load(entry.kind, entry.name)), entry


def test_strategies_without_options_can_be_built() -> None:
    for name in tp.list_strategies():
        strategy = tp.build(name)
        assert strategy.name
        hash(strategy)


# --- building ---------------------------------------------------------------------------------------------------


def test_ways_to_say_the_same() -> None:
    want = tp.build("mi-pruner", lam=1, normalizer="minmax", aggregator="mean")
    assert want == tp.build({"strategy": "mi-pruner", "lam": 1, "normalizer": "minmax", "aggregator": "mean"})
    assert want == tp.build("mi-pruner", lam=1, normalizer={"name": "minmax"}, aggregator=aggregators.Mean())
    assert want == tp.build({"strategy": "mi-pruner", "normalizer": "minmax"}, lam=1, aggregator={"name": "mean"})
    assert want is tp.build(want)
    parts = tp.build({"scorer": {"name": "pmi", "normalizer": "minmax", "aggregator": "mean"}, "selector": "top-k"})
    assert (parts.scorer, parts.selector) == (want.scorer, want.selector)  # type: ignore[attr-defined]
    nested = tp.build(
        {
            "scorer": "pmi",
            "selector": {
                "name": "two-stage",
                "salience": "received-attention",
                "fill": {"name": "greedy", "objective": {"name": "mmr", "lam": 0.2, "pairs": {"name": "cosine"}}},
            },
        }
    )
    assert nested.requires == {"visual", "text", "received_attention"}


def test_options_behind_a_name() -> None:
    made = tp.build("mi-pruner:lam=0.7:tau=0.02")
    assert made == replace(tp.build("mi-pruner", lam=0.7, tau=0.02), name="mi-pruner:lam=0.7:tau=0.02")
    assert tp.build({"strategy": "mi-pruner:lam=1", "tau": 0.5}).name == "mi-pruner:lam=1"
    for name in tp.list_strategies():
        # values are read as YAML; schedules are strategies like any
        options = inspect.signature(shared.load("strategies", name)).parameters
        numbers = {n: p.default for n, p in options.items() if isinstance(p.default, int | float)}
        spec = ":".join([name, *(f"{n}={str(v).lower()}" for n, v in numbers.items())])
        assert tp.build(spec) == replace(tp.build(name), name=spec if numbers else name)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("mi-pruner:lam", errors.ConfigError, "name:option=value"),
        ("mi-pruner:=1", errors.ConfigError, "name:option=value"),
        ("mi-pruner:lambda=1", errors.UnknownOptionError, "lam"),
        ("mi-prunner:lam=1", errors.UnknownNameError, "mi-pruner"),
        ("mi-pruner:lam=high", errors.TokenPruneError, "lam"),
    ],
)
def test_mistakes_behind_a_name(spec: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tp.build(spec)


def test_an_option_given_twice() -> None:
    with pytest.raises(errors.UnknownOptionError, match="twice"):
        tp.build("mi-pruner:lam=1", lam=0.5)


def test_options_behind_the_name_of_what_cannot_be_renamed() -> None:
    registry = Registry()

    class Mine(AnyStrategy):
        name, positions, requires, merges = "mine", "keep", frozenset({"visual"}), False  # type: ignore[assignment]

        def __init__(self, seed: int = 0) -> None:
            self.seed = seed

        def select(self, features: tp.Features, keep: Any, *, unit: Any = None) -> tp.Selection:
            return tp.build("random", seed=self.seed).select(features, keep, unit=unit)

    registry.register("strategies", "mine")(Mine)
    assert registry.build("mine", seed=3).name == "mine"
    with pytest.raises(errors.OptionTypeError, match="no dataclass"):
        registry.build("mine:seed=3")


def test_specifications_are_not_changed() -> None:
    spec = {"strategy": "mi-pruner", "normalizer": {"name": "softmax", "tau": 0.2}}
    copy = json.loads(json.dumps(spec))
    tp.build(spec)
    tp.build(spec, lam=0.25)
    assert spec == copy


def test_a_part_may_be_left_out() -> None:
    assert tp.build({"scorer": "random", "merger": None}).merger is None  # type: ignore[attr-defined]
    assert tp.build({"selector": {"name": "greedy", "objective": "max-min"}}).requires == {"visual"}


# --- registering ------------------------------------------------------------------------------------------------


class Norm(tp.Scorer):
    def score(self, features: tp.Features) -> torch.Tensor:
        return features.visual.norm(dim=-1)


def test_registered_parts_are_names_like_any() -> None:
    registry = Registry()
    assert registry.register("scorers", "norm")(Norm) is Norm
    assert [e.origin for e in registry.entries("scorers", "norm")] == [f"registered in {__name__}"]
    f = tp.Features(torch.tensor([[[1.0], [3.0], [2.0]]]))
    assert registry.build({"scorer": "norm"}).select(f, 2).order.tolist() == [[1, 2]]
    assert "norm" not in tp.list_components("scorers"), "registries are apart"
    with pytest.raises(errors.UnknownNameError, match="did you mean 'norm'"):
        registry.build({"scorer": "nrom"})


def test_registered_strategies_are_functions() -> None:
    registry = Registry()

    @registry.register("strategies", "mine")
    def mine(*, seed: int = 0) -> tp.Strategy:
        return tp.build("random", seed=seed)  # type: ignore[return-value]

    assert registry.build("mine", seed=3) == tp.build("random", seed=3)
    registry.register("strategies", "wrong")(lambda: 5)
    with pytest.raises(errors.OptionTypeError, match=r"'wrong'.*int"):
        registry.build("wrong")


def test_running_a_cell_again_replaces() -> None:
    registry = Registry()

    def cell(value: float) -> None:
        @registry.register("scorers", "constant")
        class Constant(tp.Scorer):
            def score(self, features: tp.Features) -> torch.Tensor:
                return torch.full((features.batch, features.n_visual), value)

    cell(1.0)
    cell(2.0)
    f = tp.Features(torch.ones(1, 3, 1))
    assert registry.build({"scorer": "constant"}).select(f, 1).scores.tolist() == [[2.0] * 3]  # type: ignore[union-attr]


def test_a_taken_name_is_refused_and_stays_what_it_was() -> None:
    registry = Registry()
    for kind, name, thing in (("scorers", "pmi", Norm), ("strategies", "mi-pruner", lambda: None)):
        with pytest.raises(errors.DuplicateNameError, match=rf"'{name}' is already taken by tokenprune-vlm \d"):
            registry.register(kind, name)(thing)
    registry.register("selectors", "mine")(TopK)
    with pytest.raises(errors.DuplicateNameError, match=r"'mine' is already taken by registered in .*:TopK"):
        registry.register("selectors", "mine")(Norm)
    assert registry.load("selectors", "mine") is TopK
    assert registry.build("mi-pruner") == tp.build("mi-pruner")


# --- plugins ----------------------------------------------------------------------------------------------------

GOOD = "import tokenprune as tp\nclass Mine(tp.Scorer):\n    def score(self, f):\n        return f.visual.sum(-1)\n"


def test_an_installed_plugin_is_found_at_once(install: Install) -> None:
    assert "fresh" not in tp.list_components("scorers")
    install("fresh-plugin", {"scorers": {"fresh": "fresh_plugin:Mine"}}, GOOD)
    entry = next(e for e in all_entries() if e.name == "fresh")
    assert (entry.origin, entry.target) == ("fresh-plugin 0.1", "fresh_plugin:Mine")
    assert "fresh_plugin" not in sys.modules
    assert tp.build({"scorer": "fresh"}).requires == {"visual"}
    # into a folder that has been searched before
    install("later-plugin", {"scorers": {"later": "later_plugin:Mine"}}, GOOD)
    assert tp.list_components("scorers", "later") == ["later"]


@pytest.mark.parametrize(
    ("target", "module", "cause"),
    [
        ("hurt_plugin:Mine", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this"),
        ("hurt_plugin:Mine", "raise RuntimeError('bad day')", "RuntimeError: bad day"),
        ("hurt_plugin:Mine", "def broken(:", "SyntaxError"),
        ("hurt_plugin:Mine", "import sys; sys.exit(3)", "SystemExit: 3"),
        ("hurt_plugin:Other", GOOD, "AttributeError"),
        ("not a target", GOOD, "cannot be loaded"),
        ("hurt_plugin", GOOD, "cannot be called"),
    ],
)
def test_a_broken_plugin_is_named_and_harms_nobody(install: Install, target: str, module: str, cause: str) -> None:
    groups = {"scorers": {"hurt": target}, "strategies": {"hurt": target}}
    install("hurt-plugin", groups, module)
    assert "hurt" in tp.list_components("scorers")
    for call in (lambda: tp.build({"scorer": "hurt"}), lambda: tp.build("hurt")):
        with pytest.raises(errors.PluginError) as caught:
            call()
        assert isinstance(caught.value, ImportError)
        assert "hurt" in str(caught.value)
        assert cause in str(caught.value)
        if "called" not in cause:
            assert "hurt-plugin 0.1" in str(caught.value)
            assert caught.value.__cause__ is not None
    f = tp.Features(torch.ones(1, 3, 2))
    assert tp.build({"scorer": "random"}).select(f, 1).counts.tolist() == [1]
    assert tp.build("mi-pruner").name == "mi-pruner"


def test_two_plugins_with_one_name_are_both_named(install: Install) -> None:
    install("first-plugin", {"scorers": {"both": "first_plugin:Mine"}}, GOOD)
    install("second-plugin", {"scorers": {"both": "second_plugin:Mine", "own": "second_plugin:Mine"}}, GOOD)
    (entry,) = [e for e in all_entries() if e.name == "both"]
    assert entry.clashes
    with pytest.raises(errors.DuplicateNameError) as caught:
        tp.build({"scorer": "both"})
    assert "first-plugin 0.1" in str(caught.value)
    assert "second-plugin 0.1" in str(caught.value)
    assert tp.build({"scorer": "own"}).requires == {"visual"}, "its other names work"


def test_a_plugin_cannot_take_a_name_that_ships(install: Install) -> None:
    install("greedy-plugin", {"scorers": {"pmi": "greedy_plugin:Mine"}}, GOOD)
    # what ships stays what it is, for everybody; the plugin's is there under its own address
    assert tp.build({"scorer": "pmi"}) == tp.build({"scorer": build_component("scorers", "pmi")})
    assert type(build_component("scorers", "greedy-plugin:pmi")).__module__ == "greedy_plugin"
    assert tp.list_components("scorers", "*pmi") == ["greedy-plugin:pmi", "pmi"]
    install(
        "greedy-strategies",
        {"strategies": {"full": "greedy_strategies:make", "random": "greedy_strategies:make"}},
        "import tokenprune as tp\ndef make(lam=0.5):\n    return tp.build('mi-pruner', lam=lam)\n",
    )
    assert tp.build("random").name == "random"
    assert tp.build("greedy-strategies:random:lam=0.25").name == "greedy-strategies:random:lam=0.25"
    assert tp.build("greedy-strategies:random") == tp.build("mi-pruner")


def test_a_damaged_list_of_entry_points_hides_nobody_else(install: Install) -> None:
    site = install("torn-plugin", {"scorers": {"torn": "torn_plugin:Mine"}}, GOOD)
    install("whole-plugin", {"scorers": {"whole": "whole_plugin:Mine"}}, GOOD)
    assert shared.broken() == []
    info = site / "torn_plugin-0.1.dist-info"
    (info / "entry_points.txt").write_text("[tokenprune.scorers]\nthis line has no sign of equality\n")
    site.touch()
    assert tp.list_components("scorers", "whole") == ["whole"]
    assert tp.build("mi-pruner").name == "mi-pruner"
    [why] = shared.broken()
    assert why.startswith("torn-plugin: entry_points.txt cannot be read")


def test_the_same_distribution_twice_on_the_path_is_no_clash(install: Install) -> None:
    install("twin-plugin", {"scorers": {"twin": "twin_plugin:Mine"}}, GOOD, folder="one")
    install("twin-plugin", {"scorers": {"twin": "twin_plugin:Mine"}}, GOOD, folder="two")
    assert tp.build({"scorer": "twin"}).requires == {"visual"}


def test_an_entry_point_may_also_register_itself(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shared._local, "scorers", {})
    module = GOOD.replace("class Mine", '@tp.register("scorers", "twice")\nclass Mine')
    install("twice-plugin", {"scorers": {"twice": "twice_plugin:Mine"}}, module)
    for _ in range(2):  # the second time the module is imported, and both are known
        assert tp.build({"scorer": "twice"}).requires == {"visual"}
    assert tp.list_components("scorers").count("twice") == 1


def test_a_plugin_that_makes_the_wrong_thing(install: Install) -> None:
    module = "def number(): return 5\ndef needy(x): return x\n"
    install("odd-plugin", {"scorers": {"odd": "odd_plugin:number"}, "strategies": {"odd": "odd_plugin:needy"}}, module)
    with pytest.raises(errors.OptionTypeError, match=r"scorer.*int 5"):
        tp.build({"scorer": "odd"})
    with pytest.raises(errors.OptionTypeError, match=r"'odd'.*'x'"):
        tp.build("odd")


def test_a_plugin_that_cannot_make_what_it_is_asked_for(install: Install) -> None:
    module = "def tired(): raise RuntimeError('bad day')\ndef gone(): raise SystemExit(3)\n"
    points = {"tired": "tired_plugin:tired", "gone": "tired_plugin:gone"}
    install("tired-plugin", {"scorers": points, "strategies": points}, module)
    for name, cause in (("tired", "RuntimeError: bad day"), ("gone", "SystemExit: 3")):
        for call in (lambda name=name: tp.build({"scorer": name}), lambda name=name: tp.build(name)):
            with pytest.raises(errors.PluginError, match=rf"'{name}' \(tired_plugin:{name}\).*{cause}") as caught:
                call()
            assert caught.value.__cause__ is not None


def test_what_a_plugin_refuses_stays_its_word(install: Install) -> None:
    module = "import tokenprune.core.errors as e\ndef strict(): raise e.ConfigError('too few')\n"
    install("strict-plugin", {"strategies": {"strict": "strict_plugin:strict"}}, module)
    with pytest.raises(errors.ConfigError, match=r"^too few$"):
        tp.build("strict")


@pytest.fixture(scope="module")
def installed_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in tests/plugin_package, built and installed by pip, without the network."""
    folder = tmp_path_factory.mktemp("plugin")
    source, target = folder / "source", folder / "site"
    (source / "tokenprune_example_plugin").mkdir(parents=True)
    package = ROOT / "tests" / "plugin_package"
    for name in (
        "pyproject.toml",
        "tokenprune_example_plugin/__init__.py",
        "tokenprune_example_plugin/broken.py",
        "tokenprune_example_plugin/temporal.py",
    ):
        (source / name).write_text((package / name).read_text())
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    done = python("-m", "pip", "install", *options, "--target", str(target), str(source))
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_a_separate_package_is_listed_and_its_broken_entry_reported(installed_plugin: Path) -> None:
    done = python("-m", "tokenprune", "list", "scorers", "--check", "--json", path=installed_plugin)
    assert done.returncode == 1, done.stderr
    listed = {row["name"]: row for row in json.loads(done.stdout)}
    assert listed["example-contrast"]["origin"] == "tokenprune-example-plugin 1.2.3"
    assert listed["example-contrast"]["target"] == "tokenprune_example_plugin:Contrast"
    assert "a_module_that_does_not_exist" in listed.pop("example-broken")["status"]
    assert "pmi" in listed
    assert {row["status"] for name, row in listed.items() if name != "random"} == {"ok"}


@pytest.mark.slow
def test_a_separate_package_runs(installed_plugin: Path) -> None:
    code = (
        "import torch, tokenprune as tp\n"
        "print(tp.list_strategies('example*'))\n"
        "f = tp.Features(torch.tensor([[[0.0], [1.0], [9.0], [-2.0]]]))\n"
        "print(tp.build('example-contrast', power=2.0).select(f, 2).order.tolist())\n"
        "print(tp.build({'scorer': 'example-contrast', 'selector': 'top-k'}).select(f, 0.25).order.tolist())\n"
        "try:\n    tp.build('example-contrast', powr=1)\nexcept tp.TokenPruneError as error:\n    print(error)\n"
        "try:\n    tp.build({'scorer': 'example-broken'})\nexcept tp.TokenPruneError as error:\n    print(error)\n"
    )
    ran = python("-c", code, path=installed_plugin)
    assert ran.returncode == 0, ran.stderr
    names, picks, part, option, broken = ran.stdout.splitlines()
    assert (names, picks, part) == ("['example-contrast']", "[[2, 3]]", "[[2]]")
    assert "'powr'" in option
    assert "'power'" in option
    assert "tokenprune-example-plugin 1.2.3" in broken
    assert "a_module_that_does_not_exist" in broken


def test_the_plugin_is_not_installed_here() -> None:
    assert "example-contrast" not in tp.list_strategies()
