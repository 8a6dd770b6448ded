"""Records what lmms-eval's own functions give for many predictions, for ``tests/evaluation/test_parity.py``.

    pip install --no-deps --target SITE lmms-eval==0.7.3
    python experiments/metrics/lmms_eval.py SITE tests/vectors/metrics/lmms-eval.json

Its functions are run as they are; only packages that they import and do not need here are left out.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import math
import random
import re
import string
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

OBJECTS = "dog cat traffic-light t-shirt man 2 3 10 red blue left yes no stop 1,000 5% 0.5 -4".split()
WRAPS = ["{}", "{}.", "{}!", " {} ", "The {}", "a {}", "{}, it is", "it is {}", "{}\n", '"{}"', "{}?", "an {} ."]
YES_NO = ["yes", "no", "Yes", "No.", "no, there is none", "yes it is", "y", "n", "Nope", "maybe", "", "I see no dog"]
LETTERS = ["A", "b", "C.", "B. a dog", "b. a dog", "(B)", "a dog", "D", "", "A.", "Because", "C) cow", "Answer: B"]
NUMBERS = "100 95 94.9 105 105.1 -100 1e2 100% 1.0 0 0.01 12.5% 1,000 north".split()


def official(site: Path) -> dict[str, Any]:
    """Modules and functions of the installed copy."""
    sys.path.insert(0, str(site))
    root = site / "lmms_eval"
    for name in ("lmms_eval", "lmms_eval.tasks", "lmms_eval.tasks._task_utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(site / name.replace(".", "/"))]
        sys.modules[name] = package
    judge = types.ModuleType("lmms_eval.llm_judge")
    judge.Request = judge.ServerConfig = judge.get_server = lambda *_, **__: None
    sys.modules["lmms_eval.llm_judge"] = judge
    found: dict[str, Any] = {
        task: importlib.import_module(f"lmms_eval.tasks.{task}.utils")
        for task in ("pope", "mme", "textvqa", "scienceqa", "chartqa", "mmvet")
    }
    # the module of metrics imports half the world; these of its functions need nothing of it
    tree = ast.parse((root / "api" / "metrics.py").read_text())
    names = ("exact_match_hf_evaluate", "levenshtein_distance", "anls")
    chosen = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in chosen:
        node.decorator_list = []
    space: dict[str, Any] = {"np": np, "re": re, "string": string, "math": math}
    exec(compile(ast.Module(chosen, []), "metrics.py", "exec"), space)
    return found | {name: space[name] for name in names}


def recorded(lmms: dict[str, Any], draw: random.Random, n: int) -> dict[str, Any]:
    """Documents, predictions and what the functions give."""

    def said() -> str:
        return draw.choice(WRAPS).format(draw.choice(OBJECTS))

    cases: dict[str, Any] = {}
    rows = []
    for i in range(n):
        doc = {"question_id": str(i), "answer": draw.choice(["yes", "no"])}
        prediction = draw.choice(YES_NO)
        result = lmms["pope"].pope_process_results(doc, [prediction])
        rows.append((doc["answer"], prediction, result["pope_accuracy"]["score"], result))
    totals = {
        name: getattr(lmms["pope"], f"pope_aggregate_{name}")([row[3][f"pope_{name}"] for row in rows])
        for name in ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    }
    cases["pope"] = {"rows": [row[:3] for row in rows], "totals": totals}

    pairs, results = [], {"mme_perception_score": [], "mme_cognition_score": []}
    categories = [*lmms["mme"].eval_type_dict["Perception"], *lmms["mme"].eval_type_dict["Cognition"]]
    for i in range(n // 2):
        category = categories[i % len(categories)]
        for answer in ("Yes", "No"):
            doc = {"question_id": f"{category}/{i}", "category": category, "answer": answer}
            prediction = draw.choice([*YES_NO, "Yes", "No"])
            ((key, result),) = lmms["mme"].mme_process_results(doc, [prediction]).items()
            results[key].append(result)
            pairs.append((category, doc["question_id"], answer, prediction, result["score"]))
    totals = {name: lmms["mme"].mme_aggregate_results(found) for name, found in results.items()}
    cases["mme"] = {"rows": pairs, "totals": totals}

    rows = []
    for _ in range(n):
        options = ["cat", "a dog", "cow"]
        doc = {"choices": options, "answer": draw.randrange(3)}
        prediction = draw.choice(LETTERS)
        score = lmms["scienceqa"].sqa_process_results(doc, [prediction])["exact_match"]
        rows.append((options, doc["answer"], prediction, score))
    cases["scienceqa"] = {"rows": rows}

    rows = []
    for _ in range(n):
        answers = [said() for _ in range(3)]
        ten = [draw.choice(answers) for _ in range(10)]
        prediction = draw.choice([*answers, said()])
        result = lmms["textvqa"].textvqa_process_results({"question_id": 0, "answers": [*ten]}, [prediction])
        rows.append((ten, prediction, result["exact_match"], result["submission"]["answer"]))
    cases["textvqa"] = {"rows": rows}

    rows = []
    for _ in range(n):
        answer, prediction = draw.choice(OBJECTS), said()
        result = lmms["exact_match_hf_evaluate"]([prediction], [answer], ignore_case=True, ignore_punctuation=True)
        rows.append((answer, prediction, float(result["exact_match"])))
    cases["gqa"] = {"rows": rows}

    rows = []
    for _ in range(n):
        answers = [said() for _ in range(2)]
        prediction = draw.choice([said(), answers[0][:-1], answers[0] + "s"]) or "x"
        rows.append((answers, prediction, float(lmms["anls"](answers, [prediction])["anls"])))
    cases["anls"] = {"rows": rows}

    rows = []
    for _ in range(n):
        answer, prediction = draw.choice(NUMBERS), draw.choice([*NUMBERS, "North", "100.", " 100", "$100"])
        score = lmms["chartqa"].relaxed_correctness(prediction, answer)
        rows.append((answer, prediction, bool(score)))
    cases["chartqa"] = {"rows": rows}

    grades = [(draw.randrange(11) / 10, draw.choice(["rec", "rec,ocr", "ocr,math", "rec,know,gen"])) for _ in range(n)]
    overall = lmms["mmvet"].mmvet_aggregate_results([{"score": s, "capabilities": c} for s, c in grades])
    cases["mmvet"] = {"rows": grades, "totals": {"overall": overall}}
    return cases


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=250, help="predictions of each benchmark")
    given = parser.parse_args()
    lmms = official(given.site)
    version = metadata.version("lmms-eval")
    found = {"lmms-eval": version, "cases": recorded(lmms, random.Random(0), given.n)}
    given.out.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
