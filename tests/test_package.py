"""The package as it is imported and installed. What must be fresh runs in a new interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import gn_det
import gn_det_command

ROOT = Path(gn_det.__file__).parents[1]

# makes the modules named in BLOCKED fail to import
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""


def _python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )


def test_without_detectron2():
    result = _python(f"BLOCKED = {{'detectron2'}}\n{BLOCKER}\nimport gn_det")
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: gn_det needs Detectron2")
    assert "detectron2 is blocked" in message
    assert "make venv" in message
    assert "git+https://github.com/facebookresearch/detectron2.git" in message


def test_without_pkg_resources():
    result = _python(f"""
BLOCKED = {{"pkg_resources"}}
{BLOCKER}
import gn_det
gn_det.get_cfg().merge_from_file("detectron2://Base-RCNN-FPN.yaml")
""")
    assert result.returncode == 0, result.stderr


def test_without_modules_that_windows_lacks():
    detectron2 = "import sys, detectron2.engine, detectron2.evaluation, torch.utils.tensorboard"
    missing = "sys.modules.update(fcntl=None, resource=None)"
    result = _python(f"{detectron2}\n{missing}\nfrom gn_det import engine, evaluation")
    assert result.returncode == 0, result.stderr


def test_import_fills_registries_and_changes_nothing_else():
    result = _python("""
import detectron2.data, detectron2.modeling as m
from detectron2.config import get_cfg
names = [name for name in dir(m) if name.endswith("_REGISTRY")]
before = {name: dict(getattr(m, name)) for name in names}
defaults = get_cfg().dump()
norm = m.backbone.resnet.get_norm

import gn_det

assert get_cfg().dump() == defaults, "defaults of Detectron2 changed"
assert "GN" not in get_cfg().MODEL
assert m.backbone.resnet.get_norm is norm is detectron2.layers.get_norm
added = set()
for name in names:
    after = dict(getattr(m, name))
    assert {k: after.get(k) for k in before[name]} == before[name], f"{name} overwritten"
    added |= after.keys() - before[name].keys()
print(*sorted(added))
print(gn_det.get_cfg().MODEL.GN.NUM_GROUPS)
print(gn_det.model_zoo.get_config_file("mask_rcnn_R50_gn_all"))
""")
    assert result.returncode == 0, result.stderr
    added, groups, path = result.stdout.splitlines()
    assert set(added.split()) >= {
        "GNFastRCNNConvFCHead",
        "GNMaskRCNNConvUpsampleHead",
        "GNRes5ROIHeads",
        "build_gn_resnet_backbone",
        "build_gn_resnet_fpn_backbone",
        "build_gn_vgg_backbone",
        "build_gn_vgg_fpn_backbone",
        "ImageClassifier",
    }
    assert groups == "32"
    assert Path(path).is_file()


def test_engine_and_evaluation_are_imported_on_first_use():
    result = _python("""
import sys
import gn_det
assert {"engine", "evaluation"} <= set(dir(gn_det))
loaded = {"gn_det.engine", "gn_det.evaluation", "gn_det.cli"} & sys.modules.keys()
assert not loaded, loaded
print(gn_det.engine.Trainer.__name__, gn_det.evaluation.score_file.__name__)
""")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "Trainer score_file\n"


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="module 'gn_det' has no attribute 'enigne'"):
        gn_det.enigne  # noqa: B018


@pytest.fixture(scope="module")
def setup_arguments():
    """What setup.py hands to setuptools, and whether it imported torch."""
    result = _python(f"""
BLOCKED = {{"torch", "detectron2"}}
{BLOCKER}
import json, runpy, setuptools
arguments = {{}}
setuptools.setup = arguments.update
runpy.run_path("setup.py", run_name="__main__")
print(json.dumps(arguments))
""")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_version_stands_in_one_place(setup_arguments):
    assert setup_arguments["version"] == gn_det.__version__


def test_wheel_carries_the_package_and_the_configs(setup_arguments):
    packages = set(setup_arguments["packages"])
    sources = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "gn_det").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    configs = {
        ".".join(("gn_det", *path.parent.relative_to(ROOT).parts))
        for path in (ROOT / "configs").rglob("*")
        if path.suffix in (".yaml", ".py")
    }
    assert configs >= {"gn_det.configs", "gn_det.configs.base", "gn_det.configs.common.models"}
    assert packages == sources | configs
    assert setup_arguments["package_dir"] == {"gn_det.configs": "configs"}


def test_wheel_installs_the_command(setup_arguments):
    (script,) = setup_arguments["entry_points"]["console_scripts"]
    assert script == "gn-det = gn_det_command:main"
    assert setup_arguments["py_modules"] == ["gn_det_command"]
    assert callable(gn_det_command.main)


def test_install_leaves_the_users_torch_and_detectron2_alone(setup_arguments):
    required = " ".join(setup_arguments["install_requires"]).lower()
    assert "torch" not in required
    assert "detectron2" not in required
