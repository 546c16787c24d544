"""The commands as a user types them, each in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from gn_det.cli import evaluate

ROOT = Path(__file__).parents[2]

# the datasets of a test are registered in its own process; here the builtin names are used, on a
# small copy of theirs
PRELUDE = """
import sys
import gn_det.data.embedded.registration as b
from detectron2.data import DatasetCatalog, MetadataCatalog
for name in ("photo_digits_train", "photo_digits_val"):
    DatasetCatalog.remove(name); MetadataCatalog.remove(name)
b.register_photo_digits(num_train=10, num_val=4, size=96)
from gn_det_command import main
main()
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory, digits_options):
    """Return a function that runs a command in a folder of its own and returns what it did."""
    folder = tmp_path_factory.mktemp("commands")
    small = [
        str(word)
        for key, value in zip(digits_options[::2], digits_options[1::2])
        if not key.startswith("DATASETS")
        for word in (key, value)
    ]
    small += ["DATASETS.TRAIN", "('photo_digits_train',)", "DATASETS.TEST", "('photo_digits_val',)"]

    def run(name, *words, options=True, last=(), expect=0):
        done = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-c", PRELUDE, name),
                *words,
                *(small if options else []),
                *last,
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    run.folder = folder
    return run


R50 = ["--config", "mask_rcnn_R50_gn_all.yaml"]


@pytest.fixture(scope="module")
def trained(command):
    done = command("train", *R50, last=["MODEL.DEVICE", "cuda"])
    if not torch.cuda.is_available():
        assert "No GPU found: running on the CPU" in done.stdout + done.stderr
    return command.folder / "output"


def test_train_and_resume(command, trained):
    assert (trained / "model_final.pth").exists()
    command("train", *R50, "--resume", last=["SOLVER.MAX_ITER", "4"])
    assert [row["iteration"] for row in _rows(trained) if "total_loss" in row] == [2, 3]


def test_r50_as_it_is_configured(command, tmp_path):
    """Train, resume, evaluate. Changed are data, sizes, iterations and what has to be fetched."""
    keys = [
        *("DATASETS.TRAIN", "('photo_digits_train',)", "DATASETS.TEST", "('photo_digits_val',)"),
        *("MODEL.ROI_HEADS.NUM_CLASSES", "10"),
        *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "96"),
        *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"),
        *("MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", "0"),
        *("SOLVER.IMS_PER_BATCH", "1", "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER"),
    ]
    config = ["--config", "configs/mask_rcnn_R50_gn_all.yaml"]
    command("train", *config, *keys, "2", options=False)
    command("train", *config, "--resume", *keys, "3", options=False)
    weights = str(tmp_path / "model_final.pth")
    done = command("evaluate", *config, "--weights", weights, *keys, "3", options=False)
    assert "mask  measured" in done.stdout
    assert {row["iteration"] for row in _rows(tmp_path) if "total_loss" in row} == {1, 2}
    assert _rows(tmp_path / "inference")[-1]["iteration"] == 2
    model = torch.load(weights, weights_only=True)["model"]
    assert sum(value.numel() for value in model.values()) > 40_000_000
    assert "backbone.bottom_up.res5.2.conv3.norm.weight" in model  # a bottleneck's


def test_second_run_into_the_same_folder_is_refused(command, trained):
    before = (trained / "model_final.pth").stat().st_mtime_ns
    done = command("train", *R50, expect=2)
    assert "error: OUTPUT_DIR ./output holds the checkpoints of another run" in done.stderr
    assert "Traceback" not in done.stderr
    assert (trained / "model_final.pth").stat().st_mtime_ns == before


def test_wrong_key_is_one_line(command):
    done = command("train", *R50, "SOLVER.BASE_RL", "1", options=False, expect=2)
    assert done.stderr.splitlines()[-1].startswith("error: There is no config key SOLVER.BASE_RL.")


def test_python_config(command):
    words = ["--config", "mask_rcnn_R50_gn_all.py"]
    done = command("train", *words, "train.max_itr=3", options=False, expect=2)
    assert "error: Command line: there is no key train.max_itr." in done.stderr
    assert "Was train.max_iter meant?" in done.stderr


def test_evaluate(command, trained):
    file = trained / "model_final.pth"
    of_training = (trained / "metrics.json").read_bytes()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    words = ["--weights", f"output/model_final.pth#sha256={digest}", "--per-class"]
    # the weights that the config names are another network's
    config = ["MODEL.WEIGHTS", "catalog://ImageNetPretrained/FAIR/R-50-GN"]
    done = command("evaluate", *R50, *words, "--output", "ap.json", last=config)
    assert "box   measured" in done.stdout
    assert "mask  measured" in done.stdout
    record = json.loads((command.folder / "ap.json").read_text(), parse_constant=pytest.fail)
    assert set(record["results"]["photo_digits_val"]) == {"bbox", "segm"}
    assert record["results"]["photo_digits_val"]["bbox"]["APl"] is None  # there are no large ones

    row = _rows(trained / "inference")[-1]
    assert row["iteration"] == torch.load(file, weights_only=True)["iteration"] > 0
    assert row["bbox/AP"] == record["results"]["photo_digits_val"]["bbox"]["AP"]
    assert list((trained / "inference").glob("events.out.tfevents.*"))
    assert (trained / "metrics.json").read_bytes() == of_training

    again = command(
        "evaluate",
        *("--dataset", "photo_digits_val", "--output", "again.json", "--predictions"),
        "output/inference/photo_digits_val/coco_instances_results.json",
        options=False,
    )
    assert "box   measured" in again.stdout
    rescored = json.loads((command.folder / "again.json").read_text())
    assert str(rescored["results"]) == str(record["results"])


def test_evaluate_a_dataset_that_the_config_brings(command, trained):
    """The val set under another name, by a config file and by an option, has the same AP."""
    where = "datasets/photo_digits_v1/val"
    (command.folder / "own.yaml").write_text(
        "_BASE_: gn_det://mask_rcnn_R50_gn_all.yaml\n"
        f"DATASETS: {{REGISTER: [[own_val, {where}.json, {where}]]}}\n"
    )
    words = ["--dataset", "own_val", "--output", "own.json"]
    weights = ["--weights", "output/model_final.pth"]
    command("evaluate", "--config", "own.yaml", *weights, *words, last=["OUTPUT_DIR", "own"])
    found = json.loads((command.folder / "own.json").read_text())["results"]

    predictions = ["--predictions", "own/inference/own_val/coco_instances_results.json"]
    option = ["DATASETS.REGISTER", f"[['own_val', '{where}.json', '{where}']]"]
    command("evaluate", *predictions, *words, *option, options=False)
    assert json.loads((command.folder / "own.json").read_text())["results"] == found
    other = ["--dataset", "photo_digits_val", "--output", "own.json"]
    command("evaluate", *predictions, *other, options=False)
    again = json.loads((command.folder / "own.json").read_text())["results"]
    assert again["photo_digits_val"] == found["own_val"]


def test_evaluate_misses_the_expected_results(command, trained):
    words = ["--weights", "output/model_final.pth"]
    expected = ["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 99.0, 0.5]]"]
    command("evaluate", *R50, *words, *expected, expect=1)


def test_results_are_written_before_a_terminal_refuses_them(tmp_path, monkeypatch):
    def refuse(*args):
        raise UnicodeEncodeError("cp1252", "猫", 0, 1, "no such character")

    words = ["--dataset", "x", "--predictions", "x.json", "--output", str(tmp_path / "ap.json")]
    args = evaluate.build_parser().parse_args(words)
    monkeypatch.setattr("builtins.print", refuse)
    with pytest.raises(UnicodeEncodeError):
        evaluate.report(args, {"x": {"bbox": {"AP": 1.0, "AP-猫": float("nan")}}})
    record = json.loads((tmp_path / "ap.json").read_text(), parse_constant=pytest.fail)
    assert record["results"] == {"x": {"bbox": {"AP": 1.0, "AP-猫": None}}}


def test_evaluate_with_test_time_augmentation(command, trained):
    words = ["--weights", "output/model_final.pth", "--output", "tta.json"]
    aug = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48,)", "OUTPUT_DIR", "tta"]
    done = command("evaluate", *R50, *words, last=aug)
    assert "Evaluating with test-time augmentation (TEST.AUG.ENABLED" in done.stdout + done.stderr
    written = "inference/photo_digits_val/coco_instances_results.json"
    files = [command.folder / folder / written for folder in ("output", "tta")]
    assert files[0].read_text() != files[1].read_text()


def test_evaluate_two_datasets(command, trained):
    words = ["MODEL.WEIGHTS", "output/model_final.pth", "OUTPUT_DIR", "two"]
    words += ["DATASETS.TEST", "('photo_digits_train', 'photo_digits_val')"]
    words += ["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 50.0, 50.0]]"]
    command("train", *R50, "--eval-only", last=words)
    (row,) = _rows(command.folder / "two" / "inference")
    assert {"photo_digits_train/bbox/AP", "photo_digits_val/segm/AP"} <= set(row)
    assert not (command.folder / "two" / "metrics.json").exists()


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "nowhere/ap.json"], "nowhere/ap.json: there is no folder nowhere"),
        (["TEST.EXPECTED_RESULTS", "[['box', 'AP', 50.0, 50.0]]"], "there is no task 'box'"),
    ],
)
@pytest.mark.parametrize("source", ["--weights", "--predictions"])
def test_evaluate_nothing_before_all_is_well(command, source, words, said):
    (command.folder / "file").touch()
    config = R50 if source == "--weights" else ["--dataset", "photo_digits_val"]
    done = command("evaluate", *config, source, "file", *words, options=False, expect=2)
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_evaluate_missing_weights(command):
    done = command("evaluate", *R50, "--weights", "nowhere.pth", expect=2)
    assert "nowhere.pth: there is no such file" in done.stderr


def test_evaluate_needs_weights_or_predictions(command):
    done = command("evaluate", *R50, options=False, expect=2)
    assert "--weights" in done.stderr


def test_demo_leaves_pictures_and_the_next_one_a_folder_of_its_own(command):
    # of the options of all tools the anchors have too many levels for it
    quick = {"last": ["TEST.EVAL_PERIOD", "2", "MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16], [32]]"]}
    done = command("demo", **quick)
    assert "box   measured" in done.stdout
    folder = command.folder / "output" / "demo"
    for name in ("predictions.png", "training.png"):
        assert cv2.imread(str(folder / name)) is not None
        assert f"output/demo/{name}" in done.stdout
    assert (folder / "model_final.pth").exists()
    assert "output/demo_2" in command("demo", **quick).stdout


def test_demo_has_one_name_for_its_folder(command):
    """Pictures would be looked for in the other one, after all the work."""
    done = command("demo", "OUTPUT_DIR", "elsewhere", options=False, expect=2)
    assert "named by --output-dir" in done.stderr
