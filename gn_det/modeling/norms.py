"""Norms by name, as callables ``channels -> nn.Module``, which Detectron2's layers take."""

from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from gn_det.layers import GroupNorm

__all__ = ["NORMS", "NormBuilder", "get_norm", "norm_3d_from_cfg", "norm_from_cfg"]

# what Detectron2's layers take: ``channels -> nn.Module``, or "" for no norm
NormBuilder = Callable[[int], nn.Module] | str

# "LN" and "IN" are the paper's (section 3.1): statistics over (C, H, W) and over (H, W) of each
# image, one scale and offset a channel. Detectron2's own "LN" is another thing: a layer norm over
# C at each position, as in ConvNeXt.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": GroupNorm,
    "LN": partial(GroupNorm, num_groups=1),
    "IN": partial(GroupNorm, channels_per_group=1),
}


def get_norm(
    name: str,
    *,
    num_groups: int = 32,
    channels_per_group: int | None = None,
    eps: float = 1e-5,
) -> Callable[[int], nn.Module] | str:
    """Return the norm called ``name`` as a callable ``channels -> nn.Module``.

    Args:
        name: a key of :data:`NORMS`, or ``""`` for no norm.
        num_groups: groups of ``GN``.
        channels_per_group: channels per group of ``GN``, in place of ``num_groups``.
        eps: of ``GN``, ``LN`` and ``IN``. The batch norms keep PyTorch's 1e-5.

    Returns:
        The callable; for ``""`` the empty string itself, since Detectron2's FPN and heads test
        ``norm == ""`` to give their convolutions a bias.

    Raises:
        ValueError: an unknown name.
    """
    if name == "":
        return ""
    if name not in NORMS:
        known = ", ".join(repr(n) for n in ["", *NORMS])
        raise ValueError(f"{name!r} is not the name of a norm; known are {known}.")
    if name == "GN":
        return partial(
            GroupNorm, num_groups=num_groups, channels_per_group=channels_per_group, eps=eps
        )
    if name in ("LN", "IN"):
        return partial(NORMS[name], eps=eps)
    return NORMS[name]


def norm_from_cfg(cfg: CfgNode, name: str) -> Callable[[int], nn.Module] | str:
    """Return the norm called ``name`` with the groups and eps of ``cfg.MODEL.GN``.

    Args:
        cfg: a config with our keys (:func:`gn_det.get_cfg`).
        name: the value of one of the ``NORM`` keys, such as ``cfg.MODEL.FPN.NORM``.

    Raises:
        ValueError: an unknown name, or a config without our keys.
    """
    if "GN" not in cfg.MODEL:
        raise ValueError(
            "The config has no MODEL.GN: start from gn_det.get_cfg(), or call "
            "gn_det.add_gn_config(cfg) before merging files."
        )
    gn = cfg.MODEL.GN
    return get_norm(
        name,
        num_groups=gn.NUM_GROUPS,
        channels_per_group=gn.CHANNELS_PER_GROUP or None,
        eps=gn.EPS,
    )


def norm_3d_from_cfg(cfg: CfgNode, name: str) -> Callable[[int], nn.Module] | str:
    """Return the norm called ``name`` for clips (N, C, T, H, W); see :func:`norm_from_cfg`.

    GN, LN, IN and SyncBN are the same layers as for images. BN is another class, with the same
    state dict.

    Raises:
        ValueError: FrozenBN too, which Detectron2 has for images alone.
    """
    if name == "FrozenBN":
        raise ValueError("FrozenBN is for images; for clips there are BN, SyncBN, GN, LN and IN.")
    return nn.BatchNorm3d if name == "BN" else norm_from_cfg(cfg, name)
