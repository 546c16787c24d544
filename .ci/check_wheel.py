"""Run by .ci/run outside the checkout: is the installed gn_det the wheel, and is it complete?"""

import re
import sys
from importlib.metadata import files, requires, version
from pathlib import Path

import gn_det
from gn_det import model_zoo

for requirement in requires("gn_det"):
    version(re.match(r"[\w-]+", requirement)[0])  # raises where it is not installed

top = {path.parts[0] for path in files("gn_det") if path.suffix == ".py"}
assert top == {"gn_det", "gn_det_command.py"}, f"{top} in the wheel"
name = "mask_rcnn_R50_gn_all.yaml"
file = Path(model_zoo.get_config_file(name))
for path in (Path(gn_det.__file__), file):
    assert path.is_relative_to(sys.prefix), f"{path} is not of the wheel in {sys.prefix}"
assert list((file.parent / "base").glob("*.yaml")), f"{file.parent} has no base configs"
names = model_zoo.list_configs()
for config in names:
    assert model_zoo.get_config(config).MODEL.META_ARCHITECTURE, config
lazy = [path.name for path in file.parent.glob("*.py")]
assert name.replace(".yaml", ".py") in lazy, f"{file.parent} has no Python configs"
for config in lazy:
    assert model_zoo.get_config(config).model.roi_heads.num_classes in (10, 80), config
Path("mine.yaml").write_text(f"_BASE_: gn_det://{name}\nOUTPUT_DIR: mine\n", encoding="utf-8")
mine = gn_det.get_cfg()
mine.merge_from_file("mine.yaml")
assert (mine.MODEL.FPN.NORM, mine.OUTPUT_DIR) == ("GN", "mine")
print(f"The wheel works: gn_det {gn_det.__version__}, {len(names) + len(lazy)} configs load.")
