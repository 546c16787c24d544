"""The state of an optimizer in a checkpoint, and the optimizer that is to load it.

PyTorch saves the state by the number of a parameter. The names of the parameters are saved beside
it, as the numbers depend on the groups that the optimizer has them in.
"""

import logging
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn

from gn_det.config import ConfigError
from gn_det.utils import and_more

__all__ = ["check_optimizer_state", "fitting_state", "optimizer_class", "parameter_names"]

logger = logging.getLogger(__name__)

# an option of PyTorch's optimizers -> what it alone adds to the state of a parameter
AVERAGES = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg", "momentum": "momentum_buffer"}


def fitting_state(
    saved: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Return the saved state of an optimizer as ``optimizer`` can load it.

    Where ``optimizer`` is of another class, this is its own state: it begins anew, with a warning.

    Args:
        saved: The "optimizer" of a run, with its "optimizer_class" and "parameters", which earlier
            versions did not save.
        model: The model, which may be wrapped.
        optimizer: The optimizer that is to load it.

    Raises:
        ConfigError: The state is of other parameters.
    """
    theirs, ours = saved.get("optimizer_class"), optimizer_class(optimizer)
    if theirs not in (None, ours):
        logger.warning(f"The optimizer is {ours}, no longer {theirs}: its averages start anew.")
        return optimizer.state_dict()
    state, names = saved["optimizer"], parameter_names(model, optimizer)
    saved_names = saved.get("parameters")
    if names and saved_names and names != saved_names:
        state = _regrouped(state, saved_names, names, optimizer)
    check_optimizer_state(state, optimizer)
    return _with_new_averages(state, optimizer)


def _with_new_averages(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a saved state with zeros for the averages of options that were turned on since."""
    state = saved["state"]
    theirs = chain.from_iterable(group["params"] for group in saved["param_groups"])
    ours = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    for i, (parameter, group) in zip(theirs, ours):
        known = state.get(i)  # without any entry, the state begins by itself
        wanted = [average for option, average in AVERAGES.items() if known and group.get(option)]
        if new := {name: torch.zeros_like(parameter) for name in wanted if name not in known}:
            state = {**state, i: {**known, **new}}
    return saved if state is saved["state"] else {**saved, "state": state}


def optimizer_class(optimizer: torch.optim.Optimizer) -> str:
    """Return the name of the class, such as "SGD"; Detectron2 derives one that clips from it."""
    classes = [c for c in type(optimizer).__mro__ if not c.__name__.endswith("WithGradientClip")]
    return classes[0].__name__


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]] | None:
    """Return the names of the parameters in each group of an optimizer.

    Args:
        model: The model, which may be wrapped.
        optimizer: The optimizer.

    Returns:
        The names; None where the optimizer has parameters that the model has not.
    """
    names = {id(p): name for name, p in getattr(model, "module", model).named_parameters()}
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    if not all(i in names for ids in groups for i in ids):
        return None
    return [[names[i] for i in ids] for ids in groups]


def _regrouped(
    saved: dict[str, Any],
    theirs: list[list[str]],
    ours: list[list[str]],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Return a saved state for an optimizer that has the same parameters in other groups.

    The parameters are grouped by their options: SOLVER.WEIGHT_DECAY_NORM, for example, puts the
    norms into a group of their own. The options are those of ``optimizer``.

    Args:
        saved: The ``state_dict()`` of the other optimizer.
        theirs: Its :func:`parameter_names`.
        ours: Those of ``optimizer``.
        optimizer: The optimizer that is to load it.

    Raises:
        ConfigError: The parameters are not the same.
    """
    saved_names, names = (list(chain.from_iterable(groups)) for groups in (theirs, ours))
    if sorted(saved_names) != sorted(names):
        more = [name for name in saved_names if name not in names]
        fewer = [name for name in names if name not in saved_names]
        found = [f"it trained {and_more(more)}, which this config does not"] if more else []
        found += [f"this config trains {and_more(fewer)}, which it did not"] if fewer else []
        raise ConfigError(
            f"The run to resume trained other parameters: {', and '.join(found)}. Set what decides "
            "on them as in that run, such as MODEL.BACKBONE.FREEZE_AT or a Python config's "
            "freeze_at; or start a new run from its weights, with MODEL.WEIGHTS and another "
            "OUTPUT_DIR."
        )
    places = {name: place for place, name in enumerate(saved_names)}
    of_saved = [places[name] for name in names]
    state = {i: saved["state"][j] for i, j in enumerate(of_saved) if j in saved["state"]}
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


_ANOTHER_NETWORK = (
    "The run to resume is of another network: {found}. Set the MODEL keys of that run; or "
    "start a new run from its weights, with MODEL.WEIGHTS and another OUTPUT_DIR."
)


def check_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check that a saved state is of as many parameters, of the same shapes in the same order.

    PyTorch checks the number alone, and names no key; a momentum of another shape would fail in
    the first step.

    Args:
        saved: The ``state_dict()`` of an optimizer.
        optimizer: The optimizer that is to load it.

    Raises:
        ConfigError: The state is of other parameters.
    """
    theirs = [i for group in saved["param_groups"] for i in group["params"]]
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    sizes = [
        [len(group["params"]) for group in groups]
        for groups in (saved["param_groups"], optimizer.param_groups)
    ]
    if len(theirs) != len(ours):
        found = f"it trained {len(theirs)} parameters, this config trains {len(ours)}"
    elif sizes[0] != sizes[1]:
        raise ConfigError(
            "The run to resume has its parameters in other groups, and its checkpoint, of an "
            "earlier version, has no names for them. Set the SOLVER.WEIGHT_DECAY_NORM, "
            "WEIGHT_DECAY_BIAS and BIAS_LR_FACTOR of that run."
        )
    else:
        for i, parameter in zip(theirs, ours):
            # Adam's count of steps has no dimension
            tensors = (v for v in saved["state"].get(i, {}).values() if isinstance(v, torch.Tensor))
            shapes = {tensor.shape for tensor in tensors if tensor.dim() > 0}
            if other := shapes - {parameter.shape}:
                found = f"it trained a parameter of shape {tuple(*other)}, this config trains one "
                found += f"of {tuple(parameter.shape)} in its place"
                break
        else:
            return
    raise ConfigError(_ANOTHER_NETWORK.format(found=found))
