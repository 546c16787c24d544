"""What a checkpoint of pre-training says of itself: the network, and how images were fed to it."""

from detectron2.config import CfgNode

from gn_det.modeling import pretrain_spec_from_cfg

from .converted import metadata_to_dict

__all__ = ["PretrainMetadata"]


class PretrainMetadata:
    """To be given to a checkpointer as ``gn_det``, the entry that loading looks for.

    Checkpointer(model, folder, gn_det=PretrainMetadata(cfg)).save("model_final")

    Args:
        cfg: that the network is built from and trained with.
    """

    def __init__(self, cfg: CfgNode):
        self._values = metadata_to_dict(pretrain_spec_from_cfg(cfg), "gn_det")

    def state_dict(self) -> dict:
        """Return numbers, strings and lists alone."""
        return self._values

    def load_state_dict(self, state_dict: dict) -> None:
        """Do nothing: the checkpointer has held it against the config already."""
