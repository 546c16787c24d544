import json
from pathlib import Path

import pytest
from PIL import Image

from gn_det.config import ConfigError
from studies import list_studies, load_study, page, write_page
from studies.plot import digest
from studies.record import gather, write

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_records_say():
    assert (DOCS / "study.md").read_text() == page(DOCS / "studies"), "tools/study.py report"


RECORDS = {path.stem: json.loads(path.read_text()) for path in (DOCS / "studies").glob("*.json")}


@pytest.mark.parametrize("name", list_studies())
def test_a_picture_is_of_its_record(name):
    picture = Image.open(DOCS / "studies" / f"{name}.png")
    assert picture.text["Comment"] == digest(RECORDS[name]), "tools/study.py report"


@pytest.mark.parametrize("name", list_studies())
def test_a_record_is_of_the_study_as_it_stands(name):
    """Of its runs and of the keys that they change; the configs that these stand on may differ."""
    study, record = load_study(name), RECORDS[name]
    for found, runs in (("before", study.runs_before()), ("runs", study.runs())):
        trained = {run["name"]: run["opts"] for run in record[found]}
        assert trained == json.loads(json.dumps({run.name: run.opts for run in runs}))
    assert (record["axes"], record["metrics"]) == (study.axes, study.metrics)
    assert "Not run in full" not in page(DOCS / "studies")


def test_no_page_without_a_record(tmp_path):
    (tmp_path / "study.md").write_text("mine")
    with pytest.raises(ConfigError, match="runs has no record of a study"):
        write_page(tmp_path / "runs")
    assert (tmp_path / "study.md").read_text() == "mine"


def test_a_page(tmp_path, monkeypatch):
    study = load_study("norms")
    folder = tmp_path / "studies"
    folder.mkdir()
    record = {**gather(study, tmp_path / "runs"), "jobs": 2}
    write(record, folder / "norms.json", ["norms"], 0)
    assert "Not run in full yet: batch-size, depth, detection, groups, norms" in page(folder)
    for run, error in zip(record["runs"], (20.0, 21.0, 28.0, 19.0)):
        run.update(status="done", seconds=90.0)
        run["curves"] = {"iteration": [10], "val_error": [error], "train_error": [10.0]}
    write(record, folder / "norms.json", ["norms", "--output", "a b.json"], 100.2)
    written = write_page(folder)
    assert written == tmp_path / "study.md"
    text = written.read_text()
    assert f"## {study.title}\n\n{study.paper.strip()}\n" in text
    assert "\n    tools/study.py norms --output 'a b.json'\n" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| IN ")]
    assert [cell.strip() for cell in row.strip("|").split("|")][2] == "28.4"
    assert "6.0 minutes together, 2 at once" in text
    assert "](studies/norms.png)" in text
    assert (folder / "norms.png").exists()
    assert str(tmp_path) not in text
    assert str(tmp_path) not in (folder / "norms.json").read_text()


@pytest.mark.parametrize("name", list_studies())
def test_text_of_a_study(name):
    assert "\n" not in load_study(name).title
