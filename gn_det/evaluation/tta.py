"""Test-time augmentation, ``TEST.AUG``, by Detectron2's ``GeneralizedRCNNWithTTA``."""

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from gn_det.config import ConfigError

__all__ = ["tta_problems", "with_tta"]


def tta_problems(cfg: CfgNode) -> Iterator[str]:
    """Yield why a config's model cannot be evaluated with ``TEST.AUG``, where it is enabled.

    Args:
        cfg: A finished config.
    """
    if not cfg.TEST.AUG.ENABLED:
        return
    name = cfg.MODEL.META_ARCHITECTURE
    kind = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    advice = "Set TEST.AUG.ENABLED False."
    if not _is_rcnn(kind):
        yield (
            f"TEST.AUG.ENABLED is True, but Detectron2's test-time augmentation is for "
            f"GeneralizedRCNN, not for MODEL.META_ARCHITECTURE {name}. {advice}"
        )
    if "RRPN" in cfg.MODEL.PROPOSAL_GENERATOR.NAME:
        yield f"TEST.AUG.ENABLED is True, but it is not for rotated boxes. {advice}"
    for key, value in (
        ("MODEL.KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON),
        ("MODEL.LOAD_PROPOSALS", cfg.MODEL.LOAD_PROPOSALS),
    ):
        if value:
            yield (
                f"TEST.AUG.ENABLED is True, but Detectron2's test-time augmentation does not know "
                f"{key} True. {advice}"
            )
    sizes = cfg.TEST.AUG.MIN_SIZES
    if not sizes or not all(isinstance(n, int) and n > 0 for n in (*sizes, cfg.TEST.AUG.MAX_SIZE)):
        yield (
            f"TEST.AUG.MIN_SIZES is {sizes} and TEST.AUG.MAX_SIZE {cfg.TEST.AUG.MAX_SIZE}: they "
            "are sizes in pixels, at least one of them in MIN_SIZES."
        )


def with_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return the model with test-time augmentation. It shares the model's layers.

    Args:
        cfg: The config of the model, with ``TEST.AUG``.
        model: The model, which may be wrapped in ``DistributedDataParallel``.

    Raises:
        ConfigError: Detectron2's test-time augmentation does not know such a model.
    """
    for problem in tta_problems(cfg):
        raise ConfigError(problem)
    rcnn = getattr(model, "module", model)
    if not _is_rcnn(type(rcnn)):
        raise ConfigError(f"TEST.AUG.ENABLED is True, but not for a {type(rcnn).__name__}.")
    augmented = GeneralizedRCNNWithTTA(cfg, rcnn)
    augmented.training = rcnn.training  # inference_on_dataset restores this mode
    return augmented


def _is_rcnn(kind: type | None) -> bool:
    # a subclass with an inference of its own, such as PanopticFPN, cannot be given boxes
    own = getattr(kind, "inference", None)
    return isinstance(kind, type) and own is GeneralizedRCNN.inference
