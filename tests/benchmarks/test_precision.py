import argparse
from concurrent.futures import Future

import pytest
from PIL import Image

from benchmarks import precision, records
from gn_det.config import ConfigError
from gn_det.engine import GradAccumTrainer


class Here:
    """An executor that runs its work in this process, where the datasets of tests are known."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future


def _arguments(tiny_config, tmp_path, digits_options, *more):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output")
    precision.add_arguments(parser)
    words = ["--config", tiny_config, "--folder", str(tmp_path), "--seeds", "1"]
    words += ["--output", str(tmp_path / "ap.json"), *more]
    return parser.parse_args([*words, *map(str, digits_options), "TEST.EVAL_PERIOD", "3"])


def test_trains_goes_on_and_draws(
    tiny_config, tmp_path, digits_options, monkeypatch, fast_bfloat16
):
    monkeypatch.setattr(precision, "ProcessPoolExecutor", Here)
    picture = str(tmp_path / "losses.png")
    args = _arguments(tiny_config, tmp_path, digits_options, "--plot", picture)
    first = precision.run(args)
    assert [(r["precision"], r["seed"]) for r in first["runs"]] == [("fp32", 1), ("bf16", 1)]
    fp32, bf16 = (list(run["losses"].values()) for run in first["runs"])
    assert fp32 != bf16  # and so bfloat16 was really on
    assert fp32 == pytest.approx(bf16, rel=0.05)
    for one in first["runs"]:
        assert 0 <= one["results"]["bbox"]["AP"] <= 100
    with Image.open(picture) as drawn:
        assert drawn.width > 500

    # what is done is not trained again; an evaluation that was cut off is made up for
    metrics = tmp_path / "fp32_seed1" / "metrics.json"
    rows = [row for row in metrics.read_text().splitlines(keepends=True) if "bbox/AP" not in row]
    metrics.write_text("".join(rows))
    monkeypatch.setattr(GradAccumTrainer, "run_step", lambda self: pytest.fail("trained again"))
    second = precision.run(args)
    # as text, since AP of sizes that no object has is nan
    assert str([r["results"] for r in second["runs"]]) == str([r["results"] for r in first["runs"]])
    assert str(records.read(args.output)["runs"][0]["results"]) == str(first["runs"][0]["results"])
    assert "bbox/AP" in metrics.read_text()

    args.opts += ["SOLVER.BASE_LR", "0.01"]
    with pytest.raises(ConfigError, match="fp32_seed1 holds a run with another opts"):
        precision.run(args)


def test_table_has_mean_and_spread():
    made = [("fp32", 1, 50.0), ("bf16", 1, 48.0), ("fp32", 2, 53.0), ("bf16", 2, 52.0)]
    runs = [
        {"precision": p, "seed": seed, "results": {"bbox": {"AP": ap, "AP50": ap}}, "losses": {}}
        for p, seed, ap in made
    ]
    lines = precision.table({"config": "c.yaml", "runs": runs}).splitlines()
    words = [line.split() for line in lines if line.startswith("bbox AP ")]
    assert words == [
        ["bbox", "AP", "fp32", "51.5", "3.0", "50.0", "53.0"],
        ["bbox", "AP", "bf16", "50.0", "4.0", "48.0", "52.0"],
    ]
