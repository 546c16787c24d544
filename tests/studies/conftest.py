"""A study of a tiny network on images of three colours."""

import pytest
import yaml


@pytest.fixture
def study_file(tmp_path, make_image_folder):
    """Return a function ``(**changes) -> path`` of a study's file; runs take a second each."""
    root = make_image_folder(tmp_path / "colours", per_class=(4, 2))
    tree = {
        "title": "Two norms at two batches",
        "paper": "Table 2: what it shows.",
        "published": {"val_error": {"BN": {"6": 23.6, "2": 34.7}}},
        "tool": "pretrain",
        "config": "resnet50_gn.yaml",
        "opts": {
            "MODEL.DEVICE": "cpu",
            "MODEL.RESNETS.DEPTH": 18,
            "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
            "MODEL.RESNETS.OUT_FEATURES": ["res3"],
            "MODEL.GN.NUM_GROUPS": 4,
            "MODEL.CLASSIFIER.NUM_CLASSES": 3,
            "PRETRAIN.ROOT": str(root),
            "PRETRAIN.CROP": 32,
            "PRETRAIN.RESIZE": 36,
            "PRETRAIN.EPOCHS": 2,
            "PRETRAIN.STEPS": [1],
            "DATALOADER.NUM_WORKERS": 0,
        },
        "vary": {
            "norm": {"BN": {"MODEL.RESNETS.NORM": "BN"}, "GN": {"MODEL.RESNETS.NORM": "GN"}},
            "batch": {"6": {"SOLVER.IMS_PER_BATCH": 6}, "2": {"SOLVER.IMS_PER_BATCH": 2}},
        },
        "seeds": [1, 2],
        "metrics": ["val_error", "train_error"],
        "quick": {"opts": {"PRETRAIN.EPOCHS": 1}, "vary": {"batch": ["6"]}},
    }

    def make(**changes):
        path = tmp_path / "tiny.yaml"
        new = {**tree, **changes}
        if "vary" in changes and "quick" not in changes:
            new["quick"] = {"opts": {"PRETRAIN.EPOCHS": 1}}
        path.write_text(yaml.safe_dump(new, sort_keys=False))
        return path

    return make
