"""Norms by name, as callables ``channels -> nn.Module``, which Detectron2's layers take.

One entry of :data:`NORMS` is all that a norm needs: backbones, FPN and heads build it by its name,
and ``MODEL.GN.MEMORY``, ``MODEL.GN.ZERO_INIT_RESIDUAL`` and the checks ask its entry.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, batch_norm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from gn_det.layers import GroupNorm, num_groups_for

from .from_cfg import gn_config

__all__ = [
    "BN_NAMES",
    "NORMS",
    "Norm",
    "NormBuilder",
    "as_builder",
    "get_norm",
    "groups_of",
    "has_statistics",
    "is_norm",
    "name_of_norms",
    "norm_from_cfg",
    "zero_init",
]

# A norm as an argument: ``channels -> nn.Module`` as Detectron2's layers take it, or a name.
NormBuilder = Callable[[int], nn.Module] | str


@dataclass(frozen=True)
class Norm:
    """What there is to know of a norm.

    Attributes:
        layer: The class for images (N, C, H, W). Its first argument is the number of channels.
        layer_3d: The class for clips (N, C, T, H, W), with the same state dict; None where there
            is none.
        groups: None for a norm without groups. Otherwise the class takes ``num_groups``,
            ``channels_per_group`` and ``eps``, and these are the groups that the name stands for;
            an empty dict leaves them to ``MODEL.GN``.
        has_statistics: Whether a forward pass in training updates running statistics.
    """

    layer: type[nn.Module]
    layer_3d: type[nn.Module] | None
    groups: dict[str, int] | None = None
    has_statistics: bool = False

    def is_class(self, kind: type[nn.Module]) -> bool:
        """Return whether layers of a class are this norm, or the norm of PyTorch that it is."""
        classes = tuple(c for c in (self.layer, self.layer_3d) if c)
        return issubclass(kind, classes) or any(issubclass(c, kind) for c in classes)

    def num_groups(self, channels: int, gn: CfgNode) -> int | None:
        """Return the number of groups; None where the channels cannot be split so.

        Args:
            channels: The number of channels.
            gn: The keys of ``MODEL.GN``.
        """
        given = {"num_groups": gn.NUM_GROUPS, "channels_per_group": gn.CHANNELS_PER_GROUP}
        groups = self.groups or given
        try:
            return num_groups_for(
                channels, groups.get("num_groups", 0), groups.get("channels_per_group") or None
            )
        except ValueError:
            return None


# "LN" and "IN" are the paper's (section 3.1): statistics over (C, H, W) and over (H, W) of each
# image, one scale and offset a channel. Detectron2's own "LN" is another thing: a layer norm over
# C at each position, as in ConvNeXt.
NORMS = {
    "BN": Norm(nn.BatchNorm2d, nn.BatchNorm3d, has_statistics=True),
    "SyncBN": Norm(nn.SyncBatchNorm, nn.SyncBatchNorm, has_statistics=True),
    "FrozenBN": Norm(FrozenBatchNorm2d, None),
    "GN": Norm(GroupNorm, GroupNorm, groups={}),
    "LN": Norm(GroupNorm, GroupNorm, groups={"num_groups": 1}),
    "IN": Norm(GroupNorm, GroupNorm, groups={"channels_per_group": 1}),
}


# a state dict with scale, offset and statistics is right in each of these
BN_NAMES = ("BN", "SyncBN", "FrozenBN")


def get_norm(
    name: str,
    *,
    num_groups: int = 32,
    channels_per_group: int | None = None,
    eps: float = 1e-5,
    clips: bool = False,
) -> NormBuilder:
    """Return the norm called ``name`` as a callable ``channels -> nn.Module``.

    Args:
        name: A key of :data:`NORMS`, or ``""`` for no norm.
        num_groups: The number of groups of ``GN``.
        channels_per_group: The channels per group of ``GN``, in place of ``num_groups``.
        eps: The number that ``GN``, ``LN`` and ``IN`` add to the variance. The batch norms keep
            PyTorch's 1e-5.
        clips: Whether the norm is for clips (N, C, T, H, W), not for images (N, C, H, W).

    Returns:
        The callable; for ``""`` the empty string itself, since Detectron2's FPN and heads test
        ``norm == ""`` to give their convolutions a bias.

    Raises:
        ValueError: The name is unknown, or the norm is not for clips.
    """
    if name == "":
        return ""
    if name not in NORMS:
        known = ", ".join(repr(n) for n in ["", *NORMS])
        raise ValueError(f"{name!r} is not the name of a norm; known are {known}.")
    norm = NORMS[name]
    layer = norm.layer_3d if clips else norm.layer
    if layer is None:
        others = ", ".join(other for other, norm in NORMS.items() if norm.layer_3d)
        raise ValueError(f"{name} is for images; for clips there are {others}.")
    if norm.groups is None:
        return layer
    given = {"num_groups": num_groups, "channels_per_group": channels_per_group}
    return partial(layer, eps=eps, **(norm.groups or given))


def as_builder(norm: NormBuilder) -> NormBuilder:
    """Return a norm as :func:`get_norm` does, where it is given by its name.

    Detectron2's layers take names as well, but their "LN" is another norm.

    Args:
        norm: A callable ``channels -> nn.Module``, or a name such as "GN"; "" for no norm.
    """
    return get_norm(norm) if isinstance(norm, str) else norm


def norm_from_cfg(cfg: CfgNode, name: str, *, clips: bool = False) -> NormBuilder:
    """Return the norm called ``name`` with the groups and eps of ``cfg.MODEL.GN``.

    Args:
        cfg: A config with our keys (:func:`gn_det.get_cfg`).
        name: The value of one of the ``NORM`` keys, such as ``cfg.MODEL.FPN.NORM``.
        clips: Whether the norm is for clips (N, C, T, H, W), not for images (N, C, H, W).

    Raises:
        ConfigError: The config lacks our keys.
        ValueError: The name is unknown, or the norm is not for clips.
    """
    gn = gn_config(cfg)
    return get_norm(
        name,
        num_groups=gn.NUM_GROUPS,
        channels_per_group=gn.CHANNELS_PER_GROUP or None,
        eps=gn.EPS,
        clips=clips,
    )


def is_norm(layer: nn.Module) -> bool:
    """Return whether a layer is a norm: one of :data:`NORMS`, PyTorch's or Detectron2's."""
    return isinstance(
        layer, (nn.GroupNorm, nn.LayerNorm, _NormBase, batch_norm.LayerNorm, *_classes())
    )


def has_statistics(layer: nn.Module) -> bool:
    """Return whether a forward pass in training updates running statistics of the layer."""
    return isinstance(layer, (_BatchNorm, *_classes(with_statistics=True)))


def _classes(with_statistics: bool = False) -> set[type[nn.Module]]:
    norms = [norm for norm in NORMS.values() if norm.has_statistics or not with_statistics]
    return {layer for norm in norms for layer in (norm.layer, norm.layer_3d) if layer}


def zero_init(norm: nn.Module | None) -> None:
    """Let the scale of a norm start at 0, in place, where it has one that is trained."""
    scale = getattr(norm, "weight", None)
    if isinstance(scale, nn.Parameter):
        nn.init.zeros_(scale)


def name_of_norms(layers: Iterable[nn.Module]) -> str:
    """Return the name in :data:`NORMS` that stands for all of some layers.

    Args:
        layers: Norms, of one kind. Those that ``FREEZE_AT`` made FrozenBN may be among others.

    Returns:
        The name; ``""`` for no layers, and the name of the class for one that no entry has. GN with
        one group is LN, and GN with one channel per group is IN.
    """
    layers = list(layers)
    trained = [layer for layer in layers if not isinstance(layer, FrozenBatchNorm2d)] or layers
    if not trained:
        return ""
    kind = type(trained[0])
    own_class_first = sorted(
        NORMS, key=lambda n: (kind not in (NORMS[n].layer, NORMS[n].layer_3d), not NORMS[n].groups)
    )
    for name in own_class_first:
        if all(_is_of(NORMS[name], layer) for layer in trained):
            return name
    return kind.__name__


def _is_of(norm: Norm, layer: nn.Module) -> bool:
    if not norm.is_class(type(layer)):
        return False
    if norm.groups is None:
        return True
    return norm.groups.items() <= groups_of(layer).items()


def groups_of(layer: nn.Module) -> dict[str, int]:
    """Return ``num_groups`` and ``channels_per_group`` of a norm that has groups.

    Args:
        layer: A norm with the attributes of ``nn.GroupNorm``.
    """
    channels, groups = int(layer.num_channels), int(layer.num_groups)  # type: ignore[arg-type]
    return {"num_groups": groups, "channels_per_group": channels // groups}
