"""A small exploration, and JavaScript engines that hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenprune.report.explorer import Exploration, explore
from tokenprune.report.explorer.page import as_data
from tokenprune.zoo.tiny import picture, tiny_llava, tiny_processor

QUESTION = "what color is the dog ?"
STRATEGIES = ["mi-pruner", "divprune", "visionzip", "sparsevlm", "apet", "random:seed=3"]
BUDGETS = [20, 9, 4]
ASSETS = Path(__file__).parents[2] / "tokenprune" / "report" / "explorer" / "assets"


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    return tiny_llava(side=6), tiny_processor(side=6)


@pytest.fixture(scope="session")
def explored(tiny: tuple[Any, Any]) -> Exploration:
    return explore(*tiny, picture(), QUESTION, STRATEGIES, BUDGETS, max_new_tokens=2)


class Engine:
    """Runs the page's own scripts."""

    def __init__(self) -> None:
        import quickjs  # here, so that other tests run without it

        self.context = quickjs.Context()
        self.run((ASSETS / "logic.js").read_text(encoding="utf-8"))

    def run(self, code: str) -> Any:
        return self.context.eval(code)

    def value(self, expression: str) -> Any:
        """What an expression gives, by way of JSON; lists of numbers become lists."""
        plain = "(x) => x instanceof Float32Array ? [...x].map((v) => Number.isFinite(v) ? v : String(v)) : x"
        return json.loads(self.run(f"JSON.stringify(({plain})({expression}))"))

    def show(self, data: dict[str, Any]) -> None:
        """Open the page on a document of our own."""
        self.run((Path(__file__).parent / "document.js").read_text(encoding="utf-8"))
        self.run(f"document.getElementById('data').textContent = JSON.stringify({json.dumps(data)})")
        self.run((ASSETS / "view.js").read_text(encoding="utf-8"))

    def text(self, name: str) -> str:
        return str(self.run(f"document.getElementById({json.dumps(name)}).textContent"))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def logic(engine: Engine, explored: Exploration) -> Engine:
    engine.run(f"var p = Logic.opened({json.dumps(as_data(explored))})")
    return engine


@pytest.fixture
def shown(engine: Engine, explored: Exploration) -> Engine:
    engine.show({"pictures": [as_data(explored)], "facts": [["model", "tiny"]], "notes": ["random weights"]})
    return engine
