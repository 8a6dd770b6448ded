"""Questions of one's own: every layout gives the same questions, and what is wrong is named with file and line."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.own_data import Write
from tokenprune.core.errors import ConfigError
from tokenprune.data.items import Item, scene_items
from tokenprune.data.own import BENCHMARKS, Hub, Prompts, find_data, load_data, parse_map
from tokenprune.data.scenes import export

ROWS = [
    {"id": "1", "image": "a.png", "question": "Is it red?", "answer": "yes", "task": "colour", "family": "easy"},
    {"id": "2", "image": "b.png", "question": "What is it?", "answer": ["dog", "a dog"]},
    {"id": "3", "image": "a.png", "question": "Which?", "answer": 1, "choices": ["cat", "dog"]},
    {"id": "4", "image": "c.png", "question": "Where?", "answer": "left", "boxes": [[1, 2, 30, 40]]},
]


def told(items: list[Item]) -> list[Any]:
    """All that is asked, pictures included."""
    return [(i.id, i.image_id, i.question, np.asarray(i.image()).tobytes()) for i in items]


def test_fields_of_questions(table: Write) -> None:
    one, two, three, four = (item.question for item in load_data(table(ROWS)).items)
    assert (one.family, one.subfamily, one.choices, one.binary, one.boxes) == (
        "colour", "easy", ("Yes", "No"), True, None,
    )  # fmt: skip
    assert (two.family, two.answers, two.metric, two.binary) == ("mine", ("dog", "a dog"), "words", False)
    assert (three.text, three.answer, three.metric) == ("Which?\nA. cat\nB. dog", "B", "choice")
    assert (three.choices, three.options, three.kind) == (("A", "B"), ("cat", "dog"), "choice")
    assert four.boxes == ((1, 2, 30, 40),)
    assert all(question.prompt == question.text for question in (one, two, three, four))


@pytest.mark.parametrize("answer", [1, 1.0, "dog", "Dog", "B", "b", "(B)", "B.", "B. dog"])
def test_an_option_is_named_by_number_letter_or_text(table: Write, answer: Any) -> None:
    (item,) = load_data(table([ROWS[2] | {"answer": answer}])).items
    assert item.question.answer == "B"


def test_an_option_may_be_a_number(table: Write) -> None:
    """ "1" in a cell is the option that reads so, not the second."""
    (item,) = load_data(table([ROWS[2] | {"answer": "1", "choices": ["1", "2"]}])).items
    assert item.question.answer == "A"


def test_layouts_give_the_same_questions(table: Write, tmp_path: Path) -> None:
    expected = told(load_data(table(ROWS), name="q").items)
    table([json.dumps(ROWS)], "list.json")
    table([json.dumps({"about": "facts", "rows": ROWS})], "rows.json")
    names = list(dict.fromkeys(name for row in ROWS for name in row))
    for ending, delimiter in ((".csv", ","), (".tsv", "\t")):
        out = io.StringIO()
        writer = csv.DictWriter(out, names, delimiter=delimiter)
        writer.writeheader()
        for row in ROWS:
            writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
        (tmp_path / f"cells{ending}").write_text(out.getvalue())
    for name in ("list.json", "rows.json"):
        assert told(load_data(tmp_path / name, name="q").items) == expected
    for name in ("cells.csv", "cells.tsv"):
        # a cell is text: the number of an option is its letter or text there
        with pytest.raises(ConfigError, match=rf"{name}:4: the answer '1' is no option"):
            load_data(tmp_path / name)
        text = (tmp_path / name).read_text().replace(",1,", ",dog,").replace("\t1\t", "\tdog\t")
        (tmp_path / name).write_text(text)
        assert told(load_data(tmp_path / name, name="q").items) == expected


def test_parquet_and_saved_data_sets_hold_pictures(table: Write, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'tokenprune-vlm[data]'")
    expected = load_data(table(ROWS[:1]), name="q").items
    rows = [ROWS[0] | {"image": Image.open(tmp_path / "a.png")}]
    features = {name: datasets.Value("string") for name in ROWS[0]} | {"image": datasets.Image()}
    made = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    made.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": made, "train": made}).save_to_disk(str(tmp_path / "both"))
    (tmp_path / "hub" / "data").mkdir(parents=True)
    made.to_parquet(str(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet"))
    for folder, split in (("saved", None), ("both", "test"), ("hub", None), ("hub", "test")):
        (item,) = load_data(tmp_path / folder, name="q", split=split).items
        assert item.question == expected[0].question
        assert np.array_equal(np.asarray(item.image()), np.asarray(expected[0].image()))
    with pytest.raises(ConfigError, match=r"several splits; give --split, one of: test, train"):
        load_data(tmp_path / "both")
    with pytest.raises(ConfigError, match=r"no split 'val'.*one of: test"):
        load_data(tmp_path / "hub", split="val")
    export(tmp_path / "scenes", 4, seed=0)
    for whole in ("mine.jsonl", "saved", "scenes"):
        with pytest.raises(ConfigError, match=rf"--split 'test': --data '.*{whole}' has no splits"):
            load_data(tmp_path / whole, split="test")


def test_exported_scenes_read_back_identically(tmp_path: Path) -> None:
    export(tmp_path / "d", 40, seed=3)
    read = load_data(tmp_path / "d").items
    painted = scene_items(None, 40, 3)
    assert [(i.id, i.image_id, i.task, i.family) for i in read] == [
        (i.id, i.image_id, i.task, i.family) for i in painted
    ]
    for mine, theirs in zip(read, painted, strict=True):
        for name in ("text", "answer", "answers", "choices", "boxes", "binary", "prompt", "metric"):
            assert getattr(mine.question, name) == getattr(theirs.question, name)
        assert np.array_equal(np.asarray(mine.image()), np.asarray(theirs.image()))


def test_columns_of_other_names(table: Write) -> None:
    path = table([{"photo2": "a.png", "ask": "What?", "gold": "x", "answer": "wrong column"}])
    (item,) = load_data(path, columns=parse_map("image=photo2, question=ask,answer=gold")).items
    assert (item.id, item.question.text, item.question.answer) == ("mine-1", "What?", "x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("image", "write field=column"),
        ("imag=photo", "did you mean 'image' or 'images'"),
        ("image=a,image=b", "given twice"),
        ("image=a,,", "got ''"),
    ],
)
def test_maps_that_are_none(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_map(given)


BAD: dict[str, tuple[list[Any], str]] = {
    "no JSON": ([ROWS[0], "{'id': 3}"], r"mine\.jsonl:2: no JSON"),
    "a list": ([ROWS[0], "[1]"], r"mine\.jsonl:2: a row is an object of columns, got list"),
    "no question": ([ROWS[0], ROWS[1] | {"question": " "}], r"mine\.jsonl:2: 'question' holds no question, got ' '"),
    "no answer": ([ROWS[1] | {"answer": None}], r"mine\.jsonl:1: 'answer' holds no answer"),
    "no picture": ([ROWS[1] | {"image": ""}], r"mine\.jsonl:1: 'image' holds no picture"),
    "no option": ([ROWS[2] | {"answer": 2}], r"mine\.jsonl:1: the answer 2 is no option.*\['cat', 'dog'\]"),
    "boxes": (
        [ROWS[3] | {"boxes": [[9, 2, 3, 4]]}],
        r"mine\.jsonl:1: 'boxes' is a list of \[left, top, right, bottom\]",
    ),
    "same id": ([ROWS[0], ROWS[1] | {"id": "1"}], r"mine\.jsonl:2: the id '1' is that of .*mine\.jsonl:1 too"),
    "no column": ([{"image": "a.png", "question": "What?"}], r"no column for the answer; say which with --map answer="),
    "no video": ([{"video": "", "question": "What?", "answer": "x"}], r"mine\.jsonl:1: 'video' holds no video"),
    "other picture": (
        [ROWS[0] | {"image_id": "p"}, ROWS[1] | {"image_id": "p"}],
        r"mine\.jsonl:2: another picture is called 'p' too",
    ),
    "empty": (["", " "], "holds no rows"),
    "blank answer": ([ROWS[1] | {"answer": "  "}], r"mine\.jsonl:1: 'answer' holds no answer, got '  '"),
    "answer that is no number": (['{"image": "a.png", "question": "x", "answer": NaN}'], r"holds no answer, got nan"),
    "gap among answers": ([ROWS[1] | {"answer": ["a", None]}], r"'answer' is a list of answers, got \['a', None\]"),
    "options as text": (
        [ROWS[2] | {"choices": "cat, dog"}],
        r"must be a list .in cells of CSV as JSON",
    ),
    "address": ([ROWS[1] | {"image": "https://x.org/a.png"}], r"addresses are not fetched; download it first"),
    "data address": ([ROWS[1] | {"image": "data:image/png;base64,%%"}], r"mine\.jsonl:1: .*no picture"),
}


@pytest.mark.parametrize(("rows", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_with_its_line(table: Write, rows: list[Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_data(table(rows))


def test_an_unknown_column_names_the_closest(table: Write) -> None:
    with pytest.raises(ConfigError, match=r"mine\.jsonl:1: no such column; did you mean 'question'"):
        load_data(table(ROWS), columns={"question": "questoin"})


def test_unreadable_pictures_are_listed_and_counted(table: Write, tmp_path: Path) -> None:
    path = table([*ROWS, ROWS[0] | {"id": "5", "image": "gone.png"}, ROWS[0] | {"id": "6", "image": "b.png"}])
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"3 of 6 questions have a picture that cannot be read.*--skip") as caught:
        load_data(path)
    for line, name in ((2, "b.png"), (5, "gone.png"), (6, "b.png")):
        assert any(f"mine.jsonl:{line}:" in said and name in said for said in str(caught.value).splitlines())
    found = load_data(path, skip_unreadable=True)
    assert [item.id for item in found.items] == ["1", "3", "4"]
    assert len(found.unreadable) == found.asked["unreadable"] == 3


def test_templates_show_more_than_counts(table: Write) -> None:
    prompts = Prompts.parse([r"{question}\nBe brief.", r"choice={question}\nLetter."])
    asked = [item.question for item in load_data(table(ROWS), prompts=prompts).items]
    assert [q.prompt.partition(q.text)[2] for q in asked] == ["\nBe brief.", "\nBe brief.", "\nLetter.", "\nBe brief."]


@pytest.mark.parametrize(
    ("given", "said"), [("no place", "has to stand in it"), ("opn={question}", "did you mean 'open'")]
)
def test_templates_that_are_none(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Prompts.parse([given])


def test_several_pictures_a_question(table: Write) -> None:
    (item,) = load_data(table([{"images": ["a.png", "b.png"], "question": "Same?", "answer": "no"}])).items
    assert item.image_id == "a.png+b.png"
    assert [one.size for one in item.image()] == [(64, 64), (64, 64)]


def test_tasks_and_limit(table: Write) -> None:
    path = table(ROWS)
    assert [item.id for item in load_data(path, tasks=["mine"], limit=2).items] == ["2", "3"]
    with pytest.raises(ConfigError, match=r"no 'colours' in .*; there are colour, mine"):
        load_data(path, tasks=["colours"])


def test_benchmarks_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRUNE_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"no local copy .*hf download lmms-lab/POPE"):
        find_data("pope")
    (tmp_path / "pope").mkdir()
    assert find_data("pope") == (tmp_path / "pope", BENCHMARKS["pope"])
    assert find_data(f"gqa={tmp_path}") == (tmp_path, BENCHMARKS["gqa"])
    assert find_data(str(tmp_path)) == (tmp_path, None)
    with pytest.raises(ConfigError, match="did you mean 'pope'"):
        find_data("popes")
    with pytest.raises(ConfigError, match=r"no local copy .*on no hub.*test_q\.json"):
        find_data("msvd-qa")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert find_data("mme") == (Hub("lmms-lab/MME"), BENCHMARKS["mme"])
    assert find_data("hub:me/mine") == (Hub("me/mine"), None)
    with pytest.raises(ConfigError, match="hub:OWNER/NAME"):
        find_data("hub:mine")


@pytest.fixture
def published(table: Write, tmp_path: Path) -> Path:
    """GQA as it lies on the hub: configurations in folders, pictures in one of their own, beside others."""
    datasets = pytest.importorskip("datasets", reason="pip install 'tokenprune-vlm[data]'")
    table([])
    home = tmp_path / "GQA"
    parts: dict[str, list[dict[str, Any]]] = {
        "testdev_balanced_images": [
            {"id": f"n{i}", "image": Image.open(tmp_path / f"{c}.png")} for i, c in enumerate("ab")
        ],
        "testdev_balanced_instructions": [
            {"id": str(i), "imageId": f"n{i % 2}", "question": f"What {i}?", "answer": "red"} for i in range(3)
        ],
        "train_balanced_instructions": [{"id": "t", "imageId": "n9", "question": "no?", "answer": "no"}],
    }
    about = ["---", "configs:"]
    for name, rows in parts.items():
        split = name.partition("_")[0]
        kinds = {k: datasets.Image() if k == "image" else datasets.Value("string") for k in rows[0]}
        (home / name).mkdir(parents=True)
        made = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
        made.to_parquet(str(home / name / f"{split}-00000-of-00001.parquet"))
        about += [f"- config_name: {name}", "  data_files:", f"  - split: {split}", f"    path: {name}/{split}-*"]
    (home / "README.md").write_text("\n".join([*about, "---", ""]))
    return home


@pytest.mark.parametrize("way", ["copy", "hub"])
def test_a_published_layout_is_read_from_a_copy_and_through_datasets(
    published: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    one = BENCHMARKS["gqa"]
    path = published if way == "copy" else Hub(str(published))
    found = load_data(
        path, name="gqa", split=one.split, subset=one.subset, pictures=one.pictures, prompts=one.prompts, metric="exact"
    )
    assert [(i.id, i.image_id, i.question.text) for i in found.items] == [
        (str(n), f"n{n % 2}", f"What {n}?") for n in range(3)
    ]
    for n, letter in ((0, "a"), (1, "b")):
        assert np.array_equal(np.asarray(found.items[n].image()), np.asarray(Image.open(tmp_path / f"{letter}.png")))


def test_without_a_hub_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE forbids"):
        load_data(Hub("me/mine"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(ConfigError, match="cannot be read through datasets"):
        load_data(Hub("/no/such/folder"))


LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "pope": [{"question_id": "1", "question": "Is there a dog?", "answer": "yes", "category": "popular"}],
    "gqa": [{"id": "1", "imageId": "n1", "question": "What color?", "answer": "red"}],
    "mme": [
        {"question_id": "x/1", "question": "Is it? Please answer yes or no.", "answer": a, "category": "count"}
        for a in ("Yes", "No")
    ],
    "textvqa": [{"question_id": 7, "question": "what word?", "answers": ["stop"] * 9 + ["go"]}],
    "scienceqa": [{"question": "Which?", "choices": ["cat", "dog"], "answer": 0, "hint": "Look."}],
    "mmvet": [{"question_id": "v1_0", "question": "What is x?", "answer": "-1 <AND> -5", "capability": "ocr,math"}],
    **{
        name: [{"question_id": "1", "question": "What is it?", "answer": "dog"}]
        for name in ("tgif-qa", "msvd-qa", "msrvtt-qa")
    },
}
SHORT = "\nAnswer the question using a single word or phrase."


@pytest.mark.parametrize("name", BENCHMARKS)
def test_layouts_of_benchmarks(name: str, table: Write) -> None:
    one = BENCHMARKS[name]
    path = table([row | {"image": "a.png"} for row in LAYOUTS[name]])
    found = load_data(path, name=name, columns=one.columns, prompts=one.prompts, metric=one.metric, drop=one.drop)
    question = found.items[0].question
    assert question.metric == one.metric
    prompts = {
        "pope": "Is there a dog?" + SHORT,
        "gqa": "What color?" + SHORT,
        "mme": "Is it?" + SHORT,
        "textvqa": "what word?" + SHORT,
        "scienceqa": "Context: Look.\nWhich?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices "
        "directly.",
        "mmvet": "What is x?",
        **dict.fromkeys(("tgif-qa", "msvd-qa", "msrvtt-qa"), "What is it?"),
    }
    assert question.prompt == prompts[name]
    assert len({item.image_id for item in found.items}) == 1
    assert len({item.id for item in found.items}) == len(LAYOUTS[name])


def test_options_by_letter_and_with_letters_of_their_own(table: Write) -> None:
    """Letters are listed once."""
    for choices in (["A. cat", "B. dog"], ["(A) cat", "(B) dog"], {"A": "cat", "B": "dog"}):
        (item,) = load_data(table([ROWS[2] | {"choices": choices, "answer": "B. dog"}])).items
        assert (item.question.text, item.question.answer) == ("Which?\nA. cat\nB. dog", "B")


def test_answers_that_are_no_text(table: Write) -> None:
    answers = [3, 3.0, 2.5, True, False]
    rows = [{"image": "a.png", "question": f"{i}?", "answer": answer} for i, answer in enumerate(answers)]
    found = [item.question for item in load_data(table(rows)).items]
    assert [question.answer for question in found] == ["3", "3", "2.5", "Yes", "No"]
    assert [question.binary for question in found] == [False, False, False, True, True]


def test_tables_as_spreadsheets_write_them(table: Write, tmp_path: Path) -> None:
    """A mark at the beginning, lines of Windows, semicolons, quotes that hold commas and lines."""
    table([])
    lines = ["image;question;answer", 'a.png;"He said ""what; now?""\r\nAnd?";x', "b.png;What, then?;y", ""]
    (tmp_path / "s.csv").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    found = load_data(tmp_path / "s.csv").items
    assert [(i.image_id, i.question.text, i.question.answer) for i in found] == [
        ("a.png", 'He said "what; now?"\r\nAnd?', "x"), ("b.png", "What, then?", "y"),
    ]  # fmt: skip
    (tmp_path / "d.csv").write_text("image,question,answer,answer\na.png,q,x,y\n")
    with pytest.raises(ConfigError, match=r"d\.csv:1: two columns are called 'answer'"):
        load_data(tmp_path / "d.csv")
    (tmp_path / "l.csv").write_bytes("image,question,answer\na.png,Où?,x\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"l\.csv: not written in UTF-8 .*save it as UTF-8"):
        load_data(tmp_path / "l.csv")


def test_names_of_files_as_they_come(table: Write, tmp_path: Path) -> None:
    """Other alphabets, spaces, absolute names, names from Windows, pictures within the table."""
    path = table([])
    (tmp_path / "фото").mkdir()
    shown = Image.open(tmp_path / "a.png")
    shown.save(tmp_path / "фото" / "мой кот.png")
    data = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    names = ["фото/мой кот.png", "фото\\мой кот.png", str(tmp_path / "a.png"), f"data:image/png;base64,{data}"]
    rows = [{"image": name, "question": f"{i}?", "answer": "x"} for i, name in enumerate(names)]
    path.write_bytes(("\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)).encode())
    for item in load_data(path).items:
        assert np.array_equal(np.asarray(item.image()), np.asarray(shown))


def test_pictures_of_every_kind_are_seen_as_they_are(table: Write, tmp_path: Path) -> None:
    """Grey, transparent, printed, indexed, sixteen bits, turned: what is shown is what a viewer shows."""
    path = table([])
    grey = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    kinds = {
        "L.png": Image.fromarray(grey), "LA.png": Image.fromarray(grey).convert("LA"),
        "RGBA.png": Image.fromarray(grey).convert("RGBA"), "P.png": Image.fromarray(grey).convert("P"),
        "16.png": Image.fromarray(grey.astype(np.uint16) * 257), "C.tiff": Image.fromarray(grey).convert("CMYK"),
    }  # fmt: skip
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
    Image.fromarray(grey[:8]).save(tmp_path / "turned.png", exif=turned)
    rows = [{"image": name, "question": "what?", "answer": "x"} for name in [*kinds, "turned.png"]]
    path = table(rows)
    *plain, last = load_data(path).items
    for item in plain:
        assert np.abs(np.asarray(item.image())[..., 0].astype(int) - grey).max() <= 1, item.image_id
    assert last.image().size == (8, 16)
    Image.fromarray(grey.astype(np.float32) * 10).save(tmp_path / "f.tiff")
    with pytest.raises(ConfigError, match="no scale for them is known"):
        load_data(table([{"image": "f.tiff", "question": "what?", "answer": "x"}]))


def test_ten_thousand_rows(table: Write) -> None:
    rows = [{"image": "abc"[i % 3] + ".png", "question": f"What {i}?", "answer": "x"} for i in range(10_000)]
    found = load_data(table(rows))
    assert len(found.items) == 10_000
    assert len({item.image_id for item in found.items}) == 3
