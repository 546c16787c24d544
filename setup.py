"""Builds the wheel. The configs stay at the top level and travel as the folder gn_det/configs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    source = (ROOT / "gn_det" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', source, re.M).group(1)


def config_packages() -> list[str]:
    files = [path for ending in ("yaml", "py") for path in (ROOT / "configs").rglob(f"*.{ending}")]
    folders = {path.parent.relative_to(ROOT) for path in files}
    return ["gn_det." + ".".join(folder.parts) for folder in sorted(folders)]


setup(
    name="gn_det",
    version=version(),
    description="Group Normalization for Detectron2",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["gn_det", "gn_det.*"]) + config_packages(),
    py_modules=["gn_det_command"],  # the command, which must not import gn_det to list commands
    package_dir={"gn_det.configs": "configs"},
    package_data={"": ["*.yaml", "*.json"]},
    entry_points={"console_scripts": ["gn-det = gn_det_command:main"]},
    # detectron2, torch and torchvision are left out on purpose: pip would replace the user's own
    # build of them, and Detectron2 is not on PyPI. gn_det/__init__.py says how to get it. OpenCV,
    # for the pictures, is left out as well: it comes under several names that exclude each other.
    install_requires=[
        "fvcore",
        # where it has a wheel; elsewhere pycocotools scores
        "hotcoco; platform_machine in 'x86_64 AMD64 aarch64 arm64'",
        "matplotlib",
        "numpy",
        "omegaconf",
        "pillow",
        "pycocotools",
        "pyyaml",
        "scikit-image",
        "scikit-learn",
        "scipy",
        "shapely",  # for INPUT.CROP
        "tabulate",
        "tensorboard",
        "tqdm",
        "yacs",
    ],
)
