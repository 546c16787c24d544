"""The config keys that gn_det adds to Detectron2's."""

from detectron2.config import CfgNode

__all__ = ["add_gn_config"]


def add_gn_config(cfg: CfgNode) -> None:
    """Add gn_det's keys to ``cfg``, in place. No other config and no default is touched.

    Args:
        cfg: a config of Detectron2, not frozen, with or without keys of other projects.
    """
    _C = cfg

    _C.MODEL.GN = type(cfg)()

    # Groups of every norm called "GN" in MODEL.{RESNETS,FPN,ROI_BOX_HEAD,ROI_MASK_HEAD}.NORM.
    # It has to divide the channels of each of them. 32 is the paper's default and what all
    # published GN weights were trained with (table 3: 64 to 2 groups cost at most 0.6% top-1).
    _C.MODEL.GN.NUM_GROUPS = 32

    # Channels of a group, in place of a count: 0 (default) uses NUM_GROUPS; 16 is the best fixed
    # number in table 3. Useful where layers differ in width and 32 does not divide them all.
    _C.MODEL.GN.CHANNELS_PER_GROUP = 0

    # Added to the variance. 1e-5 is the paper's and that of all published GN weights.
    _C.MODEL.GN.EPS = 1e-5

    # Start the last norm's scale of each residual branch at 0, so that a block starts as the
    # identity. The paper does so when it trains on ImageNet (section 4.1). False (default): a
    # detector starts from pre-trained norms, and the paper's from-scratch models start at 1.
    _C.MODEL.GN.ZERO_INIT_RESIDUAL = False

    # Weight Standardization (arXiv:1903.10520): convolve with (w - mean) / (std + 1e-5),
    # mean and std of each filter of w. It is for every convolution of backbone, FPN, box and mask
    # head that a norm follows; the others stay plain. Weights that were pre-trained with it need
    # it, and others must not have it. False (default): the Group Normalization paper has none.
    _C.MODEL.GN.WEIGHT_STANDARDIZATION = False

    # Allow random layers to stay frozen: MODEL.WEIGHTS "" with MODEL.BACKBONE.FREEZE_AT > 0 or
    # with FrozenBN is refused otherwise, since it trains without an error and loses AP.
    _C.MODEL.GN.ALLOW_FROZEN_RANDOM = False

    # Element type of mixed precision where SOLVER.AMP.ENABLED: "float16" (with a loss scaler, GPU
    # only) or "bfloat16" (no scaler; GPU, and CPU where it pays with AMX or AVX512-BF16).
    # The default is Detectron2's own choice.
    _C.SOLVER.AMP.DTYPE = "float16"

    # The gradient's norm over all parameters is clipped at this value; 0 (default) clips nothing.
    # SOLVER.CLIP_GRADIENTS of Detectron2 clips each parameter by itself, which changes the
    # direction of the step. Keeps short warm-ups from scratch from exploding.
    _C.SOLVER.CLIP_GLOBAL_NORM = 0.0
