"""Checks of a finished config: what would fail late, or train without an error and lose AP."""

import logging
from collections.abc import Callable, Iterator

from detectron2.config import CfgNode

from .batches import batch_problems
from .errors import ConfigError
from .expected import expected_problems
from .known_weights import find_published_spec
from .network import BOX_HEAD_USERS, network_problems
from .weights import FPN_BACKBONES, Problem, check_weights, network_node

__all__ = ["Problem", "check_config", "find_problems", "solver_problems"]

logger = logging.getLogger(__name__)

NORM_NAMES = ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "IN")
MEMORY_MODES = ("standard", "lean", "minimal")
ON_SAVE_ERROR = ("stop", "continue")

# Detectron2's own names obey NORM, but know 32 groups only, no eps, and neither "LN" nor "IN"
OURS_FOR = {
    "build_resnet_backbone": "build_gn_resnet_backbone",
    "build_resnet_fpn_backbone": "build_gn_resnet_fpn_backbone",
    "FastRCNNConvFCHead": "GNFastRCNNConvFCHead",
    "MaskRCNNConvUpsampleHead": "GNMaskRCNNConvUpsampleHead",
    "Res5ROIHeads": "GNRes5ROIHeads",
}


def check_config(
    cfg: CfgNode, *, training: bool = True, num_processes: int = 1, weights_loaded: bool = False
) -> None:
    """Refuse a config that cannot work, and warn of one that is likely not meant.

    Args:
        cfg: a finished config with gn_det's keys.
        training: False leaves out what concerns training alone.
        num_processes: processes (GPUs) that share ``SOLVER.IMS_PER_BATCH``.
        weights_loaded: the weights come from elsewhere than ``MODEL.WEIGHTS``, such as a
            checkpoint that is resumed or an object in memory.

    Raises:
        ConfigError: with one line for each problem.
    """
    problems = find_problems(
        cfg, training=training, num_processes=num_processes, weights_loaded=weights_loaded
    )
    for problem in problems:
        if not problem.fatal:
            logger.warning(problem.message)
    fatal = [problem.message for problem in problems if problem.fatal]
    if fatal:
        raise ConfigError("\n".join(fatal))


def find_problems(
    cfg: CfgNode, *, training: bool = True, num_processes: int = 1, weights_loaded: bool = False
) -> list[Problem]:
    """Return the problems that :func:`check_config` reports; see there for the arguments."""
    checks: list[Callable[[CfgNode], Iterator[Problem]]] = [
        _unknown_norms,
        _groups_that_do_not_divide,
        _ignored_gn_keys,
        _unknown_memory_mode,
        _ignored_by_detectron2s_own,
        _half_on_cpu,
        network_problems,
        expected_problems,
    ]
    if not weights_loaded:
        checks.append(_weights_of_another_network)
        if training:
            checks.append(_frozen_random_layers)
    problems = [problem for check in checks for problem in check(cfg)]
    if training:
        problems += _sync_bn_on_cpu(cfg, num_processes)
        problems += batch_problems(cfg, num_processes, _norms(cfg))
        problems += solver_problems(cfg)
    return problems


def _norms(cfg: CfgNode) -> dict[str, str]:
    """Return ``key -> name of the norm`` of the parts that the model has."""
    m = cfg.MODEL
    norms = {}
    node = network_node(cfg)
    if node is not None:
        norms[f"MODEL.{node}.NORM"] = m[node].NORM
    if m.BACKBONE.NAME in FPN_BACKBONES:
        norms["MODEL.FPN.NORM"] = m.FPN.NORM
    if m.META_ARCHITECTURE == "GeneralizedRCNN":
        if m.ROI_HEADS.NAME in BOX_HEAD_USERS and m.ROI_BOX_HEAD.NUM_CONV > 0:
            norms["MODEL.ROI_BOX_HEAD.NORM"] = m.ROI_BOX_HEAD.NORM
        if m.MASK_ON and m.ROI_MASK_HEAD.NUM_CONV > 0:
            norms["MODEL.ROI_MASK_HEAD.NORM"] = m.ROI_MASK_HEAD.NORM
    return norms


def _layers(cfg: CfgNode) -> Iterator[tuple[str, str, int]]:
    """Yield (norm key, layer, channels) for each layer with a norm."""
    m, r = cfg.MODEL, cfg.MODEL.RESNETS
    norms = _norms(cfg)
    if "MODEL.RESNETS.NORM" in norms:
        key = "MODEL.RESNETS.NORM"
        yield key, "stem (MODEL.RESNETS.STEM_OUT_CHANNELS)", r.STEM_OUT_CHANNELS
        for i in range(4):
            if r.DEPTH >= 50:
                inner = r.NUM_GROUPS * r.WIDTH_PER_GROUP * 2**i
                yield key, f"res{i + 2} bottleneck (MODEL.RESNETS.WIDTH_PER_GROUP)", inner
            outer = r.RES2_OUT_CHANNELS * 2**i
            yield key, f"res{i + 2} output (MODEL.RESNETS.RES2_OUT_CHANNELS)", outer
    if "MODEL.VGG.NORM" in norms:
        for number, width in enumerate((1, 2, 4, 8), start=1):
            layer = f"vgg{number} (MODEL.VGG.BASE_CHANNELS)"
            yield "MODEL.VGG.NORM", layer, m.VGG.BASE_CHANNELS * width
    parts = {
        "MODEL.FPN.NORM": ("FPN (MODEL.FPN.OUT_CHANNELS)", m.FPN.OUT_CHANNELS),
        "MODEL.ROI_BOX_HEAD.NORM": (
            "box head (MODEL.ROI_BOX_HEAD.CONV_DIM)",
            m.ROI_BOX_HEAD.CONV_DIM,
        ),
        "MODEL.ROI_MASK_HEAD.NORM": (
            "mask head (MODEL.ROI_MASK_HEAD.CONV_DIM)",
            m.ROI_MASK_HEAD.CONV_DIM,
        ),
    }
    for key, (layer, channels) in parts.items():
        if key in norms:
            yield key, layer, channels


def _unknown_norms(cfg: CfgNode) -> Iterator[Problem]:
    for key, name in _norms(cfg).items():
        if name not in NORM_NAMES:
            known = ", ".join(repr(n) for n in NORM_NAMES)
            yield Problem(True, f"{key} is {name!r}, which is not a norm; known are {known}.")


def _groups_that_do_not_divide(cfg: CfgNode) -> Iterator[Problem]:
    gn, norms = cfg.MODEL.GN, _norms(cfg)
    for key, layer, channels in _layers(cfg):
        set_by = "CHANNELS_PER_GROUP" if gn.CHANNELS_PER_GROUP else "NUM_GROUPS"
        if norms[key] == "GN" and (gn[set_by] < 1 or channels % gn[set_by]):
            divisors = [d for d in range(1, channels + 1) if channels % d == 0]
            yield Problem(
                True,
                f"{key} is GN, and MODEL.GN.{set_by} {gn[set_by]} does not divide the {channels} "
                f"channels of {layer}. These do: {', '.join(map(str, divisors))}.",
            )


def _ignored_gn_keys(cfg: CfgNode) -> Iterator[Problem]:
    m, gn, norms = cfg.MODEL, cfg.MODEL.GN, _norms(cfg)
    roi_heads = m.ROI_HEADS.NAME if m.META_ARCHITECTURE == "GeneralizedRCNN" else ""
    parts = [
        ("MODEL.RESNETS.NORM", "MODEL.BACKBONE.NAME", m.BACKBONE.NAME),
        ("MODEL.RESNETS.NORM", "MODEL.ROI_HEADS.NAME", roi_heads),
        ("MODEL.FPN.NORM", "MODEL.BACKBONE.NAME", m.BACKBONE.NAME),
        ("MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_BOX_HEAD.NAME", m.ROI_BOX_HEAD.NAME),
        ("MODEL.ROI_MASK_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NAME", m.ROI_MASK_HEAD.NAME),
    ]
    special = (gn.NUM_GROUPS, gn.CHANNELS_PER_GROUP, gn.EPS) != (32, 0, 1e-5)
    for norm_key, name_key, name in parts:
        ours, norm = OURS_FOR.get(name), norms.get(norm_key, "")
        if ours is None:
            continue
        if norm in ("LN", "IN") or (norm == "GN" and special):
            yield Problem(
                True,
                f"{name_key} {name} is Detectron2's own and knows nothing of {norm_key} {norm} "
                f"with MODEL.GN's groups and eps. Set {name_key} {ours}.",
            )
        elif norm and gn.WEIGHT_STANDARDIZATION:
            yield Problem(
                True,
                f"{name_key} {name} is Detectron2's own and knows nothing of "
                f"MODEL.GN.WEIGHT_STANDARDIZATION. Set {name_key} {ours}.",
            )


def _ignored_by_detectron2s_own(cfg: CfgNode) -> Iterator[Problem]:
    m = cfg.MODEL
    names = {"MODEL.BACKBONE.NAME": m.BACKBONE.NAME}
    if m.META_ARCHITECTURE == "GeneralizedRCNN":
        names["MODEL.ROI_HEADS.NAME"] = m.ROI_HEADS.NAME
        if m.ROI_HEADS.NAME in BOX_HEAD_USERS:
            names["MODEL.ROI_BOX_HEAD.NAME"] = m.ROI_BOX_HEAD.NAME
        if m.MASK_ON:
            names["MODEL.ROI_MASK_HEAD.NAME"] = m.ROI_MASK_HEAD.NAME
    asked_for = {
        "MODEL.CHANNELS_LAST": m.CHANNELS_LAST,
        f"MODEL.GN.MEMORY {m.GN.MEMORY}": m.GN.MEMORY != "standard",
    }
    for key, name in names.items():
        for what in (what for what, asked in asked_for.items() if asked and name in OURS_FOR):
            yield Problem(
                True,
                f"{key} {name} is Detectron2's own and knows nothing of {what}. "
                f"Set {key} {OURS_FOR[name]}.",
            )


def _unknown_memory_mode(cfg: CfgNode) -> Iterator[Problem]:
    if cfg.MODEL.GN.MEMORY not in MEMORY_MODES:
        known = ", ".join(MEMORY_MODES)
        yield Problem(True, f"MODEL.GN.MEMORY is {cfg.MODEL.GN.MEMORY!r}; known are {known}.")


def solver_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Yield what is wrong with gn_det's keys below ``SOLVER``."""
    if cfg.SOLVER.ON_SAVE_ERROR not in ON_SAVE_ERROR:
        yield Problem(
            True,
            f"SOLVER.ON_SAVE_ERROR is {cfg.SOLVER.ON_SAVE_ERROR!r}; known are "
            f"{', '.join(ON_SAVE_ERROR)}.",
        )
    if cfg.SOLVER.CHECKPOINT_PERIOD < 1:
        yield Problem(
            True,
            f"SOLVER.CHECKPOINT_PERIOD is {cfg.SOLVER.CHECKPOINT_PERIOD}: at least 1 iteration; "
            "with more than SOLVER.MAX_ITER only the end is saved.",
        )
    if cfg.SOLVER.KEEP_CHECKPOINTS < 0:
        yield Problem(
            True,
            f"SOLVER.KEEP_CHECKPOINTS is {cfg.SOLVER.KEEP_CHECKPOINTS}: a number, or 0 for all.",
        )
    if not cfg.SOLVER.CLIP_GLOBAL_NORM >= 0:
        yield Problem(
            True,
            f"SOLVER.CLIP_GLOBAL_NORM is {cfg.SOLVER.CLIP_GLOBAL_NORM}: above 0, or 0 to clip "
            "nothing. A negative one would turn the gradient round.",
        )
    if not 0 <= cfg.SOLVER.EMA_DECAY < 1:
        yield Problem(
            True,
            f"SOLVER.EMA_DECAY is {cfg.SOLVER.EMA_DECAY}: at least 0 (no average) and below 1.",
        )


def _sync_bn_on_cpu(cfg: CfgNode, num_processes: int) -> Iterator[Problem]:
    # one process has nothing to synchronize: PyTorch then runs it as BN, on a CPU too
    keys = [key for key, name in _norms(cfg).items() if name == "SyncBN"]
    if keys and num_processes > 1 and cfg.MODEL.DEVICE == "cpu":
        yield Problem(
            True,
            f"{', '.join(keys)}: SyncBN over {num_processes} processes needs GPUs, but "
            "MODEL.DEVICE is cpu. Use one process, or GN, which needs no synchronization.",
        )


def _half_on_cpu(cfg: CfgNode) -> Iterator[Problem]:
    amp = cfg.SOLVER.AMP
    if amp.DTYPE not in ("float16", "bfloat16"):
        yield Problem(True, f"SOLVER.AMP.DTYPE is {amp.DTYPE!r}; known are float16 and bfloat16.")
    elif amp.ENABLED and amp.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        yield Problem(
            True,
            "SOLVER.AMP.DTYPE float16 is for GPUs, but MODEL.DEVICE is cpu. "
            "Set SOLVER.AMP.DTYPE bfloat16.",
        )


def _frozen_random_layers(cfg: CfgNode) -> Iterator[Problem]:
    weights = cfg.MODEL.WEIGHTS
    # those that are known by name are of a backbone; others may be of all layers
    if cfg.MODEL.GN.ALLOW_FROZEN_RANDOM or (weights and find_published_spec(weights) is None):
        return
    meant = "Set MODEL.GN.ALLOW_FROZEN_RANDOM True if this is meant."
    if not weights and cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        yield Problem(
            True,
            f"MODEL.WEIGHTS is empty and MODEL.BACKBONE.FREEZE_AT is "
            f"{cfg.MODEL.BACKBONE.FREEZE_AT}: random layers would stay as they are. Detectron's "
            "R50-GN from scratch has 39.5 box AP with FREEZE_AT 0 and 36.2 with 2. "
            f"Set MODEL.BACKBONE.FREEZE_AT 0, or give weights. {meant}",
        )
    covered = f"MODEL.{network_node(cfg)}.NORM" if weights else ""
    keys = [key for key, name in _norms(cfg).items() if name == "FrozenBN" and key != covered]
    if keys:
        have = f"{weights} is of a backbone alone" if weights else "is empty"
        yield Problem(
            True,
            f"MODEL.WEIGHTS {have} and {', '.join(keys)} is FrozenBN: it would stay the identity, "
            "which is no normalization at all. Set it to GN, or give weights that have it. "
            f"{meant}",
        )


def _weights_of_another_network(cfg: CfgNode) -> Iterator[Problem]:
    found = find_published_spec(cfg.MODEL.WEIGHTS)
    if found is not None:
        yield from check_weights(cfg, found[1])
