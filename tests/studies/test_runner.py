"""Studies from beginning to end, in processes of their own."""

import json
import shutil
from dataclasses import replace

import pytest

from gn_det.config import ConfigError
from studies import load_study, run_study, table


@pytest.fixture
def said(capsys):
    return lambda: [line.split("/", 1)[1] for line in capsys.readouterr().out.splitlines() if line]


def test_runs_all_and_does_nothing_twice(study_file, tmp_path, said):
    study = load_study(str(study_file()), quick=True)
    output = tmp_path / "tiny.json"
    first = run_study(study, tmp_path / "runs", output=output, words=["tiny", "--quick"])
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
    assert str(tmp_path / "runs") not in output.read_text()
    assert "batch 6" in table(first, study.published)

    console = tmp_path / "runs" / "BN_6_seed1" / "console.txt"
    console.write_text("")
    assert run_study(study, tmp_path / "runs") == first
    assert console.read_text() == ""


def test_a_stopped_run_goes_on(study_file, tmp_path):
    """An epoch of two is done; the whole has the curves of a run that was never stopped."""
    one = {"norm": {"GN": {"MODEL.RESNETS.NORM": "GN"}}}
    study = load_study(str(study_file(vary=one, seeds=[1])))
    whole = run_study(study, tmp_path / "whole")["runs"][0]
    folder = tmp_path / "parts" / "GN_seed1"
    shutil.copytree(tmp_path / "whole" / "GN_seed1", folder)
    (folder / "result.json").unlink()
    first = sorted(folder.glob("model_0*.pth"))[0]
    for later in {*folder.glob("*.pth")} - {first}:
        later.unlink()
    (folder / "last_checkpoint").write_text(first.name)
    rows = (folder / "metrics.json").read_text().splitlines(keepends=True)
    (folder / "metrics.json").write_text(rows[0])
    again = run_study(study, tmp_path / "parts")["runs"][0]
    assert again["resumed"]
    assert not whole["resumed"]
    assert again["seconds"] > whole["seconds"]  # of both sessions
    assert len(whole["code"]["commit"] or 40 * "-") == 40
    assert len(whole["curves"]["val_error"]) == 2
    assert again["curves"] == whole["curves"]


def test_a_clock_that_was_cut_off_ends_no_run(study_file, tmp_path):
    one = {"norm": {"GN": {"MODEL.RESNETS.NORM": "GN"}}}
    study = load_study(str(study_file(vary=one, seeds=[1])), quick=True)
    (tmp_path / "runs" / "GN_seed1").mkdir(parents=True)
    (tmp_path / "runs" / "GN_seed1" / "seconds.txt").write_text("")
    run = run_study(study, tmp_path / "runs")["runs"][0]
    assert run["status"] == "done"
    assert run["seconds"] > 0


def test_one_diverges_one_fails_and_the_study_goes_on(study_file, tmp_path):
    vary = {
        "rate": {
            "huge": {"SOLVER.BASE_LR": 1e30, "SOLVER.IMS_PER_BATCH": 2},
            "wrong": {"SOLVER.IMS_PER_BATCH": 0},
            "usual": {"SOLVER.BASE_LR": 0.1},
        }
    }
    study = load_study(str(study_file(vary=vary, seeds=[1])), quick=True)
    record = run_study(study, tmp_path / "runs", jobs=1)
    ended = {run["cell"]["rate"]: run for run in record["runs"]}
    assert [run["status"] for run in ended.values()] == ["diverged", "failed", "done"]
    assert ended["huge"]["iteration"] >= 1
    assert "SOLVER.IMS_PER_BATCH" in ended["wrong"]["reason"]
    shown = table(record, {})
    assert f"diverged at iteration {ended['huge']['iteration']}" in shown
    assert "1 failed" in shown

    # how it diverged is a result; what failed is tried again
    consoles = {rate: tmp_path / "runs" / f"{rate}_seed1" / "console.txt" for rate in ended}
    for console in consoles.values():
        console.write_text("")
    run_study(study, tmp_path / "runs", jobs=1)
    assert consoles["huge"].read_text() == consoles["usual"].read_text() == ""
    assert "SOLVER.IMS_PER_BATCH" in consoles["wrong"].read_text()


def test_a_folder_of_another_study(study_file, tmp_path):
    one = {"norm": {"GN": {"SOLVER.BASE_LR": 0.1}}}
    run_study(load_study(str(study_file(vary=one)), quick=True), tmp_path / "runs")
    one["norm"]["GN"]["SOLVER.BASE_LR"] = 0.2
    study = load_study(str(study_file(vary=one)), quick=True)
    with pytest.raises(ConfigError, match="GN_seed1 holds a run with another opts"):
        run_study(study, tmp_path / "runs")


def test_a_config_that_was_changed(study_file, tmp_path):
    config = tmp_path / "base.yaml"
    config.write_text("_BASE_: gn_det://pretrain/resnet50_gn.yaml\nSOLVER: {IMS_PER_BATCH: 0}\n")
    one = {"norm": {"GN": {}}}
    study = load_study(str(study_file(vary=one, config="base.yaml", seeds=[1])))
    run_study(study, tmp_path / "runs")
    run_study(study, tmp_path / "runs")  # fails again, and does not mind
    config.write_text("_BASE_: gn_det://pretrain/resnet50_gn.yaml\nSOLVER: {IMS_PER_BATCH: 2}\n")
    with pytest.raises(ConfigError, match="GN_seed1 holds a run with another settings"):
        run_study(study, tmp_path / "runs")


def test_runs_of_other_runs_before(study_file, tmp_path):
    """What a run starts from is trained anew by other settings: it is another run, too."""
    study = load_study(str(study_file(seeds=[1])), quick=True)
    opts = study.opts
    before = {"net": {"tool": "pretrain", "config": "resnet50_gn.yaml", "opts": opts}}
    study = replace(study, before=before)
    run_study(study, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "net")
    before["net"]["opts"] = {**opts, "SOLVER.BASE_LR": 0.2}
    with pytest.raises(ConfigError, match="BN_6_seed1 holds a run with another before"):
        run_study(replace(study, before=before), tmp_path / "runs")
