"""The page of clips is made from its answers, and leaves out what was not asked of all."""

from __future__ import annotations

from experiments.clips.page import HERE, PAGE, directions, page
from experiments.trainings.page import Row, read
from tokenprune.evaluation.paper_tables import paper_tables

ANSWERS = HERE / "results" / "answers.csv.gz"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read(ANSWERS))


def made(better: str) -> list[Row]:
    """Answers in which one strategy is always right and the others half of the time."""
    return [
        {
            "training": training,
            "strategy": name,
            "keep": str(keep),
            "draw": "0",
            "sample": f"test-0-{number}-{family}",
            "right": str(int(name == better or number % 2)),
        }
        for training in ("a", "b")
        for keep in (28, 14)
        for name in ("mi-pruner", "vispruner", "fastv")
        for number in range(16)
        for family in ("tgif-event", "msvd-actor", "msrvtt-count")
    ]


def test_a_direction_is_the_papers_only_where_the_sign_is() -> None:
    lines = directions(made("mi-pruner"), paper_tables("4")[0], draws=100).splitlines()
    against = [line for line in lines if "mi-pruner less vispruner" in line]
    assert len(against) == 6
    # TGIF is where the paper has VisPruner ahead: 15.9 to 15.7, and 14.1 to 13.1
    assert [("**disagrees**" in line, "| -0.2 |" in line or "| -1.0 |" in line) for line in against] == [
        (family == "tgif",) * 2 for _ in range(2) for family in ("tgif", "msvd", "msrvtt")
    ]
    assert all("undecided" in line for line in lines if "vispruner less fastv" in line)


def test_what_was_not_asked_in_full_is_not_compared() -> None:
    rows = made("fastv")
    missing = [
        row
        for row in rows
        if (row["training"], row["strategy"], row["keep"], row["sample"]) != ("a", "fastv", "28", "test-0-3-tgif-event")
    ]
    lines = directions(missing, paper_tables("4")[0], draws=100).splitlines()
    assert sum("fastv" in line and "| tgif |" in line and "(28)" in line for line in lines) == 0
    assert sum("fastv" in line and "| tgif |" in line and "(14)" in line for line in lines) == 2
    assert "fastv at 28" in lines[-2] or "fastv at 28" in lines[-1]
    only = [row for row in rows if row["keep"] == "14"]
    assert "mi-pruner at 28" in directions(only, paper_tables("4")[0], draws=100)
