"""Whether the state of an optimizer is of the parameters that it is loaded for."""

from typing import Any

import torch

from gn_det.config import ConfigError

__all__ = ["check_optimizer_state"]


def check_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check the number and the shapes of the parameters, in the order of the optimizer's.

    PyTorch checks the number alone, in words that name no key; a momentum of another shape would
    end the first step.

    Args:
        saved: the ``state_dict()`` of an optimizer.
        optimizer: the one to load it.

    Raises:
        ConfigError: it was saved for other parameters.
    """
    theirs = [i for group in saved["param_groups"] for i in group["params"]]
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    if len(theirs) != len(ours):
        found = f"it trained {len(theirs)} parameters, this config trains {len(ours)}"
    else:
        for i, parameter in zip(theirs, ours):
            shapes = {v.shape for v in saved["state"].get(i, {}).values() if _has_shape(v)}
            if other := shapes - {parameter.shape}:
                found = f"it trained one of {tuple(*other)} where now one is of "
                found += f"{tuple(parameter.shape)}"
                break
        else:
            return
    raise ConfigError(
        f"The run to go on with was of another network: {found}. Give it the MODEL keys that it "
        "had; or start a new run from its weights, with MODEL.WEIGHTS and another OUTPUT_DIR."
    )


def _has_shape(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0  # Adam's count of steps has none
