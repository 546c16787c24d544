"""Keys that a part of the model ignores, and the registered part that obeys them.

Detectron2's own parts know nothing of ``MODEL.GN`` and ``MODEL.CHANNELS_LAST``. Where gn_det has a
part in place of one (``GNRes5ROIHeads`` for ``Res5ROIHeads``), the model is built with it too: what
obeys a key there alone, ignores it here.
"""

from collections.abc import Iterator

import detectron2.modeling
import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.utils.registry import Registry
from torch import nn

from gn_det.config import Problem, flatten

from .activation_checkpointing import ActivationCheckpointMixin
from .inspect import ModelLook, NormLayer
from .norms import NORMS
from .weight_standardization import StandardizedConv2d

__all__ = ["ignored_keys"]

GROUPS_AND_EPS = " with MODEL.GN's groups and eps"


def ignored_keys(look: ModelLook, cfg: CfgNode) -> Iterator[Problem]:
    """Yield the keys that the model ignores.

    Args:
        look: The look at the config's model.
        cfg: The config as it was given. ``look`` may have ``LN`` where Detectron2 has no ``IN``.
    """
    norms = _norms_not_as_asked(look)
    values = {key: str(value) for key, value in flatten(cfg)}
    obeying = _obeying(look)
    not_obeyed = {asked for asked, layers in obeying.items() if not layers}
    for name_key, name, ours in _replaceable_parts(look) if norms or obeying else ():
        other = look.with_changes({name_key: ours})
        if other is None:
            continue
        for key, names in norms.items():
            there = {n: other.norms[n] for n in names & other.norms.keys()}
            obey_there = {n for n, layer in there.items() if _as_asked(other, layer, key)}
            norms[key] = names - obey_there
            if obey_there:
                name_of_norm = values[key]
                has_groups = NORMS[name_of_norm].groups is not None
                asked = f"{key} {name_of_norm}{GROUPS_AND_EPS if has_groups else ''}"
                yield _use_ours(name_key, name, asked, ours)
        for asked, layers in _obeying(other).items():
            if layers - obeying[asked]:
                not_obeyed.discard(asked)
                yield _use_ours(name_key, name, asked, ours)
    for asked in sorted(not_obeyed):
        yield Problem(False, f"{asked} is set, but no part of this model obeys it.")
    for key, names in norms.items():
        for layer in [norm for norm in look.norms.values() if norm.name in names][:1]:
            yield _without_replacement(look, key, values[key], layer)


def _use_ours(name_key: str, name: str, asked: str, ours: str) -> Problem:
    return Problem(
        True,
        f"{name_key} {name} is Detectron2's own and knows nothing of {asked}. "
        f"Set {name_key} {ours}.",
    )


def _without_replacement(look: ModelLook, key: str, name: str, layer: NormLayer) -> Problem:
    gn, part = look.cfg.MODEL.GN, layer.owner.__name__
    remedy = f"Set another {key}."
    if look.read[key] != name:
        made = f"{part} does not know {name}"
    elif layer.groups:
        made = f"{part} makes {layer.name} with {layer.groups} groups and eps {layer.eps:g}"
        remedy = (
            f"Set another {key}, or MODEL.GN.NUM_GROUPS {layer.groups}, "
            f"MODEL.GN.CHANNELS_PER_GROUP 0 and MODEL.GN.EPS {layer.eps:g}."
        )
    else:
        made = f"{part} makes {layer.name} a {layer.kind.__module__}.{layer.kind.__name__}"
    return Problem(
        _is_detectron2s(look, layer),
        f"{key} is {name}, but {made}: it knows nothing of MODEL.GN (NUM_GROUPS {gn.NUM_GROUPS}, "
        f"CHANNELS_PER_GROUP {gn.CHANNELS_PER_GROUP}, EPS {gn.EPS:g}). {remedy}",
    )


def _is_detectron2s(look: ModelLook, layer: NormLayer) -> bool:
    makers = [layer.owner]
    if layer.in_backbone:  # a user's own function may build it of Detectron2's blocks
        makers.append(BACKBONE_REGISTRY.get(look.cfg.MODEL.BACKBONE.NAME))
    return all(maker.__module__.startswith("detectron2.") for maker in makers)


def _norms_not_as_asked(look: ModelLook) -> dict[str, set[str]]:
    """Return ``key -> names`` of the norms that a ``NORM`` key makes, but not as MODEL.GN says."""
    names = {name for name, norm in NORMS.items() if norm.groups is not None}
    without_groups = [norm for norm in NORMS.values() if norm.groups is None]
    keys = [key for key in look.norm_keys() if look.read[key] in names]
    suspects = {
        layer.name
        for layer in look.norms.values()
        if not any(norm.is_class(layer.kind) for norm in without_groups)
        and not any(_as_asked(look, layer, key) for key in keys)
    }
    return look.keys_of(suspects, names)


def _as_asked(look: ModelLook, layer: NormLayer, key: str) -> bool:
    """Return whether a norm is what the value of ``key``, and MODEL.GN, stand for."""
    norm, gn = NORMS[look.read[key]], look.cfg.MODEL.GN
    groups = norm.num_groups(layer.channels, gn)
    return norm.is_class(layer.kind) and (layer.groups, layer.eps) == (groups, gn.EPS)


def _obeying(look: ModelLook) -> dict[str, set[str]]:
    """Return the names of the layers that obey each of the keys that a config sets."""
    m, modules = look.cfg.MODEL, dict(look.model.named_modules())
    mode, found = m.GN.MEMORY, {}
    if m.CHANNELS_LAST:
        found["MODEL.CHANNELS_LAST"] = {
            name for name, module in modules.items() if _channels_last(module)
        }
    if mode != "standard":
        found[f"MODEL.GN.MEMORY {mode}"] = {
            name
            for name, module in modules.items()
            if isinstance(module, ActivationCheckpointMixin) and module.memory == mode
        }
    if m.GN.WEIGHT_STANDARDIZATION:
        found["MODEL.GN.WEIGHT_STANDARDIZATION"] = {
            name for name, module in modules.items() if isinstance(module, StandardizedConv2d)
        }
    return found


def _channels_last(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return False
    weight = module.weight
    # one of 1x1, or of one channel, is in both layouts
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def _replaceable_parts(look: ModelLook) -> Iterator[tuple[str, str, str]]:
    """Yield (key, name, our name) of Detectron2's own parts that gn_det has another one for.

    Ours is called ``GN...`` or ``build_gn_...``, in the same registry.
    """
    registries = [r for r in vars(detectron2.modeling).values() if isinstance(r, Registry)]
    for key, name in look.read.items():
        if not isinstance(name, str) or not name:
            continue
        ours = name.replace("build_", "build_gn_", 1) if name.startswith("build_") else f"GN{name}"
        for registry in (r for r in registries if name in r and ours in r):
            if registry.get(name).__module__.startswith("detectron2."):
                yield key, name, ours
