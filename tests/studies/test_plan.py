import pytest

from gn_det.config import ConfigError
from gn_det.engine import load_runnable_config
from gn_det.modeling import find_problems
from studies import list_studies, load_study


def test_product_of_axes_and_seeds(study_file):
    study = load_study(str(study_file()))
    assert study.axes == {"norm": ["BN", "GN"], "batch": ["6", "2"]}
    runs = study.runs()
    names = [f"{norm}_{batch}" for norm in ("BN", "GN") for batch in ("6", "2")]
    assert [run.name for run in runs] == [f"{n}_seed{seed}" for seed in (1, 2) for n in names]
    last = runs[-1]
    assert last.cell == {"norm": "GN", "batch": "2"}
    assert last.opts["MODEL.RESNETS.NORM"] == "GN"
    assert last.opts["SOLVER.IMS_PER_BATCH"] == 2
    assert last.opts["PRETRAIN.EPOCHS"] == 2
    assert last.opts["SEED"] == last.seed == 2


def test_quick_form(study_file):
    study = load_study(str(study_file()), quick=True)
    assert [run.name for run in study.runs()] == ["BN_6_seed1", "GN_6_seed1"]
    assert {run.opts["PRETRAIN.EPOCHS"] for run in study.runs()} == {1}


def test_quick_goes_before_the_axes(study_file):
    vary = {"length": {"long": {"PRETRAIN.EPOCHS": 9, "SOLVER.BASE_LR": 0.5}}}
    (run,) = load_study(str(study_file(vary=vary)), quick=True).runs()
    assert run.opts["PRETRAIN.EPOCHS"] == 1
    assert run.opts["SOLVER.BASE_LR"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["error"]}, "metrics has error; known are val_error"),
        ({"tool": "train"}, "tool is train; known are pretrain, detection"),
        ({"colour": 1}, "colour unknown. A study has title"),
        ({"vary": {"norm": {"BN": None}}}, "vary norm BN needs {KEY: VALUE}, not None"),
        ({"vary": {}}, "vary has 0 axes"),
        ({"vary": {"norm": ["BN"]}}, "vary norm needs {VALUE: {KEY: VALUE}}, not ['BN']"),
        ({"seeds": 2}, "seeds is a list, not 2"),
        ({"metrics": []}, "metrics needs one besides percentiles"),
        ({"metrics": ["p1", "p99"]}, "metrics needs one besides percentiles"),
        ({"before": {"net": {"tool": "pretrain"}}}, "before net has no config"),
        (
            {"vary": {"n": {"a b": {}, "a/b": {}}}, "quick": {}},
            "two runs have the same name: a-b_seed1",
        ),
        ({"quick": {"vary": {"batch": ["4"]}}}, "quick has batch 4, which is not in vary"),
    ],
)
def test_a_file_that_describes_none(study_file, changes, message):
    with pytest.raises(ConfigError) as error:
        load_study(str(study_file(**changes)), quick=True)
    assert message in str(error.value)


def test_unknown_study():
    with pytest.raises(ConfigError, match="no study normz; there are .*batch_size.*norms"):
        load_study("normz")


@pytest.mark.parametrize("name", list_studies())
def test_every_run_of_ours_has_a_config(name):
    for quick in (False, True):
        study = load_study(name.replace("_", "-"), quick=quick)
        assert study.title
        assert set(study.published) <= set(study.metrics)
        for run in (*study.runs_before(), *study.runs()):
            opts = [word for item in run.opts.items() for word in item]
            cfg = load_runnable_config(run.config, opts)
            assert run.seed == cfg.SEED
            first = {f"{{folder}}/{one.name}/model_final.pth" for one in study.runs_before()}
            assert run.opts.get("MODEL.WEIGHTS", "") in {"", *first}
            assert not [p.message for p in find_problems(cfg) if p.fatal]
