"""Studies from beginning to end, in processes of their own."""

import json

import pytest

from gn_det.studies import carry_out_study, load_study, table


@pytest.fixture
def said(capsys):
    return lambda: [line.split("/", 1)[1] for line in capsys.readouterr().out.splitlines() if line]


def test_runs_all_and_does_nothing_twice(study_file, tmp_path, said):
    study = load_study(str(study_file()), quick=True)
    output = tmp_path / "tiny.json"
    first = carry_out_study(study, tmp_path / "runs", output=output, words=["tiny", "--quick"])
    assert {line.split(":")[0] for line in said()} == {"2 BN_6_seed1", "2 GN_6_seed1"}
    for run in first["runs"]:
        assert run["status"] == "done"
        assert run["curves"]["iteration"] == [2]  # 12 images, 6 a step
        assert 0 <= run["curves"]["val_error"][0] <= 100
        twelfths = run["curves"]["train_error"][0] * 12 / 100
        assert twelfths == pytest.approx(round(twelfths), abs=1e-3)
    written = json.loads(output.read_text())
    assert written["runs"] == first["runs"]
    assert written["command"] == "tools/study.py tiny --quick"
    assert str(tmp_path) not in output.read_text()
    assert "batch 6" in table(first, study.published)

    console = tmp_path / "runs" / "BN_6_seed1" / "console.txt"
    console.write_text("")
    assert carry_out_study(study, tmp_path / "runs") == first
    assert console.read_text() == ""
