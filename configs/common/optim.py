"""SGD as the paper trains detectors: for 16 images a step, no weight decay on GN's parameters."""

from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
from torch.optim import SGD as _SGD

SGD = L(_SGD)(
    # whoever trains sets params.model
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0001,
    foreach=True,
)
