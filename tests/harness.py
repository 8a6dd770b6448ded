"""The stock lmms-eval with our model, from outside: ``python tests/harness.py WORK``, in an environment that has both.

Scenes are exported, asked by ``compare`` and by the harness (batches of 1 and 8, one process and two), and have to get
the same answers at the same cost, question by question. A run that is killed goes on with another number of processes.
What goes wrong ends with another exit code than 0. Run by ``.ci/lmms``; docs/lmms-eval.md says how to make the
environment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

BIN = Path(sys.executable).parent
QUESTIONS = 24
KEEP = 64
SAME = (
    *("image", "task", "family", "binary", "question", "answer", "prediction", "metric"),
    *("correct", "tokens", "layer_average_tokens", "flops", "kv_bytes"),
)
"""What lines of an import and of a comparison have to agree in."""


def main() -> None:
    """Run everything, or the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a new folder")
    parser.add_argument("--only", nargs="*", choices=[*PARTS], default=[*PARTS])
    asked = parser.parse_args()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hf"), "TOKENIZERS_PARALLELISM": "false"}
    if not Path("scenes").exists():
        ours("scenes", "export", "scenes", "--n", str(QUESTIONS))
        ours("harness", "tasks", "tasks", "scenes=scenes")
        rows = "mi-pruner,random:seed=1"
        ours("compare", "--data", "scenes", "--out", "compared", "--strategies", rows, "--budgets", str(KEEP))
    for name in asked.only:
        began = time.monotonic()
        PARTS[name]()
        print(f"{name}: as it should be ({time.monotonic() - began:.0f} s)", flush=True)


def parity() -> None:
    """The same answers and the same costs as ``compare``'s, whatever the batch and the number of processes."""
    pruned, drawn = f"strategy=mi-pruner,keep={KEEP}", f"strategy=random:seed=1,keep={KEEP}"
    alone = {"8": (8, pruned), "1": (1, pruned), "full": (8, ""), "drawn": (8, drawn)}
    spread = {"8x2": (8, pruned), "1x2": (1, pruned), "drawnx2": (8, drawn)}
    evaluate("parity", [run(f"parity/{name}", batch, args) for name, (batch, args) in alone.items()])
    runs = {name: run(f"parity/{name}", batch, args) for name, (batch, args) in spread.items()}
    runs["drawnx2"]["limit"] = QUESTIONS - 1  # an odd number: the harness fills the second process up with a copy
    evaluate("parity2", [*runs.values()], processes=2)
    theirs = {(x["strategy"], x["keep"], x["sample"]): x for x in lines_of(Path("compared/results.jsonl"))}
    for name in (*alone, *spread):
        shutil.rmtree(f"imported/{name}", ignore_errors=True)
        ours("harness", "import", f"parity/{name}", "--out", f"imported/{name}")
        mine = list(lines_of(Path(f"imported/{name}/results.jsonl")))
        assert len(mine) == runs.get(name, {}).get("limit", QUESTIONS), (name, len(mine))
        for line in mine:
            other = theirs[line["strategy"], line["keep"], line["sample"]]
            wrong = {key: (line[key], other[key]) for key in SAME if line[key] != other[key]}
            assert not wrong, (name, line["sample"], wrong)
    together = ["parity/8", "parity/full", "parity/drawn"]
    ours("harness", "import", *together, "--out", "imported/together")
    ours("verify", "imported/together")
    ours("report", "imported/together", "--out", "imported/report")
    ours("verify", "compared")
    mine, other = (table_of(folder) for folder in ("imported/together", "compared"))
    assert mine, "an empty table"
    for key, row in mine.items():
        # what is said about random rests on draws that are not among these
        differ = {name for name, value in row.items() if name != "p_random" and other[key][name] != value}
        assert not differ, (key, differ, row, other[key])


def several() -> None:
    """A model that cuts pictures into tiles, one picture a question and three: what ``compare`` answers."""
    rows = list(lines_of(Path("scenes/metadata.jsonl")))[:4]
    names = [str(Path("scenes", row["file_name"]).resolve()) for row in rows]
    asked = [
        {
            "id": f"{row['id']}-{n}",
            "images": (names[i:] + names)[:n],
            "question": row["question"],
            "answer": row["answer"],
        }
        for i, row in enumerate(rows)
        for n in (1, 3)
    ]
    Path("several.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    ours("harness", "tasks", "several-tasks", "several=several.jsonl")
    rows_of = ("--strategies", "mi-pruner", "--budgets", "3")
    ours("compare", "--model", "tiny:smolvlm", "--data", "several.jsonl", "--out", "compared-several", *rows_of)
    args = "pretrained=tiny:smolvlm,max_new_tokens=16,strategy=mi-pruner,keep=3"
    evaluate("several", [run("several", 4, args, "tokenprune_several", "several-tasks")])
    shutil.rmtree("imported/several", ignore_errors=True)
    ours("harness", "import", "several", "--out", "imported/several")
    theirs = {(x["strategy"], x["sample"]): x for x in lines_of(Path("compared-several/results.jsonl"))}
    mine = list(lines_of(Path("imported/several/results.jsonl")))
    assert len(mine) == len(asked), len(mine)
    for line in mine:
        other = theirs[line["strategy"], line["sample"]]
        wrong = {key: (line[key], other[key]) for key in SAME if line[key] != other[key]}
        assert not wrong, (line["sample"], wrong)


def stock() -> None:
    """Stock tasks read local copies; what they write around questions is shown, and is no part of them."""
    made = local_copies(Path("copies"))
    ours("harness", "tasks", "stock-tasks", *(f"{name}={folder}" for name, folder in made.items()))
    shutil.rmtree("stock-journal", ignore_errors=True)
    evaluate(
        "stock",
        [run("stock", 8, f"strategy=mi-pruner,keep={KEEP}", "tokenprune_local", "stock-tasks", "stock-journal")],
    )
    asked = list(lines_of(Path("stock-journal/rank-0.jsonl")))
    assert {line["document"].partition("/")[0] for line in asked} == {
        *("pope", "gqa", "mme", "textvqa_val", "scienceqa_img")
    }
    for line in asked:
        for around in ("Answer the question using", "Please answer yes or no", "Answer with the option"):
            assert around not in line["question"], line
    ours("harness", "import", "stock", "--out", "imported/stock")
    graded = {line["task"]: line for line in lines_of(Path("imported/stock/results.jsonl"))}
    assert set(graded) == {"pope", "gqa", "mme", "textvqa_val", "scienceqa_img"}


def resume() -> None:
    """One of two processes is killed: the run ends with an error, and goes on with one process where it stopped."""
    for folder in ("resumed", "journal"):
        shutil.rmtree(folder, ignore_errors=True)
    one = [run("resumed", 1, f"strategy=mi-pruner,keep={KEEP}", journal="journal")]
    process = start("resume", one, processes=2)
    files = [Path(f"journal/rank-{rank}.jsonl") for rank in (0, 1)]
    while process.poll() is None and not all(count(file) >= 3 for file in files):
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    ranks = [pid for pid in descendants(process.pid) if int(environment(pid).get("LOCAL_RANK", "-1")) == 1]
    os.kill(ranks[-1], signal.SIGKILL)
    assert process.wait(timeout=300) != 0, "a rank was killed, and the launcher ended with 0"
    there = [line["key"] for file in files for line in lines_of(file)]
    assert 6 <= len(there) < QUESTIONS, len(there)
    assert not list(Path("resumed").rglob("*samples*")), "a run that was killed wrote samples"
    evaluate("resume", one)
    after = [line["key"] for file in files for line in lines_of(file)]
    assert len(set(after)) == len(after) == QUESTIONS, "a question was asked twice, or not at all"
    assert set(there) <= set(after)
    shutil.rmtree("imported/resumed", ignore_errors=True)
    ours("harness", "import", "resumed", "--out", "imported/resumed")
    answers = {(x["strategy"], x["sample"]): x["prediction"] for x in lines_of(Path("compared/results.jsonl"))}
    for line in lines_of(Path("imported/resumed/results.jsonl")):
        assert line["prediction"] == answers["mi-pruner", line["sample"]], line


def failing() -> None:
    """What goes wrong is told, leaves no samples, and ends with another exit code than 0."""
    story = evaluate("failing", [run("failed", 8, f"strategy=mi-prunner,keep={KEEP}")], fails=True)
    assert "did you mean 'mi-pruner'" in story, story[-2000:]
    # before there is a model nobody of ours is there to tell; the harness does when asked to
    early = {**run("failed", 8, "", tasks="tokenprune_scene"), "verbosity": "DEBUG"}
    assert "tokenprune_scene" in evaluate("failing", [early], fails=True)
    # a picture is gone, and only the second of two processes finds out
    shutil.rmtree("broken", ignore_errors=True)
    ours("harness", "tasks", "broken", "scenes=scenes", "--limit", "8")
    rows = list(lines_of(Path("broken/scenes/questions.jsonl")))
    rows[1]["images"] = ["gone.png"]
    Path("broken/scenes/questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken = run("failed", 1, f"strategy=mi-pruner,keep={KEEP}", include="broken")
    story = evaluate("failing", [broken], processes=2, fails=True)
    assert "gone.png" in story, story[-2000:]
    assert not list(Path("failed").rglob("*samples*")), "a run that failed wrote samples"


def page() -> None:
    """The commands of the page, as they stand there."""
    text = (Path(__file__).parents[1] / "docs" / "lmms-eval.md").read_text(encoding="utf-8")
    commands = text.partition("<!-- run by tests/harness.py -->")[2].partition("```console\n")[2].partition("```")[0]
    shutil.rmtree("page", ignore_errors=True)
    Path("page").mkdir()
    about = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    assert commands.count("\n") == 6, commands
    for command in commands.splitlines():
        done = subprocess.run(command, shell=True, cwd="page", env=about, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
    assert Path("page/results/table.md").exists()
    assert {row["strategy"] for row in table_of("page/results").values()} == {"full", "mi-pruner:lam=0.7"}


PARTS = {"page": page, "parity": parity, "several": several, "stock": stock, "resume": resume, "failing": failing}


def run(
    out: str,
    batch: int,
    args: str,
    tasks: str = "tokenprune_scenes",
    include: str = "tasks",
    journal: str | None = None,
) -> dict[str, Any]:
    """One run of the harness, for its ``--config``."""
    shutil.rmtree(out, ignore_errors=True)
    model = [] if args.startswith("pretrained=") else ["pretrained=embedded"]
    given = [*model, args, f"journal={journal or f'{out}-journal'}"]
    if journal is None:
        shutil.rmtree(f"{out}-journal", ignore_errors=True)
    return {
        "model": "tokenprune",
        "model_args": ",".join(filter(None, given)),
        "tasks": tasks,
        "include_path": include,
        "batch_size": batch,
        "log_samples": True,
        "output_path": out,
    }


def start(name: str, runs: Sequence[Mapping[str, Any]], processes: int = 1) -> subprocess.Popen[str]:
    """Start the harness's own command, in as many processes."""
    config = Path(f"{name}.yaml")
    config.write_text(yaml.safe_dump(list(runs)), encoding="utf-8")
    launch = [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", str(processes), "-m", "lmms_eval"]
    command = [*(launch if processes > 1 else [str(BIN / "lmms-eval")]), "--config", str(config)]
    about = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with Path(f"{name}.log").open("w", encoding="utf-8") as log:
        return subprocess.Popen(command, env=about, stdout=log, stderr=subprocess.STDOUT, text=True)


def evaluate(name: str, runs: Sequence[Mapping[str, Any]], processes: int = 1, fails: bool = False) -> str:
    """Run it to its end; what it printed."""
    code = start(name, runs, processes).wait(timeout=1800)
    story = Path(f"{name}.log").read_text(encoding="utf-8", errors="replace")
    if (code != 0) != fails:
        sys.exit(f"{name}: exit code {code}\n{story[-6000:]}")
    return story


def ours(*command: str) -> None:
    """Run our command."""
    done = subprocess.run([str(BIN / "tokenprune"), *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"tokenprune {' '.join(command)}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr}")


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a file."""
    for line in file.read_bytes().split(b"\n")[:-1]:
        yield json.loads(line)


def count(file: Path) -> int:
    """Whole lines of a file that may not be there yet."""
    return file.read_bytes().count(b"\n") if file.exists() else 0


def table_of(folder: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows of a summary by what they are about."""
    rows = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))["rows"]
    return {tuple(row[name] for name in ("strategy", "keep", "task", "family", "metric")): row for row in rows}


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


def environment(pid: int) -> dict[str, str]:
    """What a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode(errors="replace").split("=", 1) for pair in pairs if b"=" in pair)


def local_copies(folder: Path) -> dict[str, Path]:
    """Made-up rows in the layouts of the hub's data sets, asked about the exported scenes."""
    import datasets

    asked = list(lines_of(Path("scenes/metadata.jsonl")))
    binary = [row for row in asked if set(row["choices"]) == {"Yes", "No"}][:4]
    opened = [row for row in asked if not row["choices"]][:4]

    def pictures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        return [str(Path("scenes", row["file_name"]).resolve()) for row in rows]

    def column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
        return [row[name] for row in rows]

    pairs = [row for row in binary[:2] for _ in range(2)]
    tables: dict[str, tuple[str, dict[str, list[Any]]]] = {
        "pope": (
            "test",
            {
                "id": column(binary, "id"),
                "question_id": [str(i) for i, _ in enumerate(binary)],
                "question": column(binary, "question"),
                "answer": [row["answer"].lower() for row in binary],
                "category": column(binary, "family"),
                "image_source": column(binary, "image_id"),
                "image": pictures(binary),
            },
        ),
        "gqa": (
            "testdev",
            {
                "id": column(opened, "id"),
                "imageId": column(opened, "image_id"),
                "question": column(opened, "question"),
                "answer": column(opened, "answer"),
                "fullAnswer": column(opened, "answer"),
                "image": pictures(opened),
            },
        ),
        "mme": (
            "test",
            {
                "question_id": [f"existence/{i // 2}" for i, _ in enumerate(pairs)],
                "question": [row["question"] + " Please answer yes or no." for row in pairs],
                "answer": ["Yes", "No"] * 2,
                "category": ["existence"] * 4,
                "image": pictures(pairs),
            },
        ),
        "textvqa": (
            "validation",
            {
                "question_id": list(range(len(opened))),
                "image_id": column(opened, "image_id"),
                "question": column(opened, "question"),
                "answers": [[row["answer"]] * 10 for row in opened],
                "ocr_tokens": [[] for _ in opened],
                "image": pictures(opened),
            },
        ),
        "scienceqa": (
            "test",
            {
                "question": column(binary, "question"),
                "choices": [["Yes", "No"]] * len(binary),
                "answer": [0 if row["answer"] == "Yes" else 1 for row in binary],
                "hint": [""] * len(binary),
                "lecture": [""] * len(binary),
                "image": pictures(binary),
            },
        ),
    }
    made = {}
    for name, (split, columns) in tables.items():
        table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        made[name] = folder / name
        (made[name] / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(made[name] / "data" / f"{split}-00000-of-00001.parquet"))
    return made


if __name__ == "__main__":
    main()
