"""Loads weights of any source into a model, safely, and saves so that a run can be resumed.

checkpointer = Checkpointer(model, cfg=cfg)
checkpointer.load("catalog://ImageNetPretrained/FAIR/R-50-GN")
print(checkpointer.report.table())
"""

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from gn_det.config import require_gn_config
from gn_det.utils.atomic_write import atomic_write

from .convert import convert
from .converted_state import Converted
from .errors import WeightsError
from .files import local_file, parse_path, remove_copy
from .fit import fit, log_report
from .matching import match
from .report import Report
from .resumable import resumable, verify_checksums
from .safe_content import Placeholder
from .safe_load import load_file

__all__ = ["Checkpointer"]

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for all sources of :mod:`gn_det.checkpoint.sources`.

    Files are read by :func:`gn_det.checkpoint.load_file` alone, which runs no code of theirs.

    Args:
        model: The model to fill or save.
        save_dir: The folder of :meth:`save` and of ``last_checkpoint``.
        cfg: The config that the model was built from. Weights that say how they were trained are
            compared with it: depth, norm, groups, stride, and the preprocessing of images.
        save_to_disk: Whether :meth:`save` writes. By default the main process does.
        class_names: The names of the classes in the order of the model's outputs, by the entry of
            the file that holds them, such as ``{"thing_classes": ["ship", "buoy"]}``.
        check_file: A function ``(path, entries, report, resumed)`` that is called before anything
            of a file is used: with its entries beside the weights, the :class:`Report` of how the
            weights fit, and whether a run is resumed from it. It raises a ConfigError for a file
            that must not be used.
        **checkpointables: Other objects with a ``state_dict``, such as the optimizer.

    Attributes:
        whole: Whether a file is refused that does not fill the whole model, as an evaluation needs
            it.
        report: What the last :meth:`load` matched, missed and did not use; None before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        cfg: CfgNode | None = None,
        save_to_disk: bool | None = None,
        class_names: Mapping[str, list[str]] | None = None,
        check_file: Callable[[str, dict[str, Any], Report, bool], None] | None = None,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        if cfg is not None:
            require_gn_config(cfg)
        self.cfg = cfg
        self.class_names = dict(class_names or {})
        self.check_file = check_file
        self.whole = False
        self._resumed = False
        self.report: Report | None = None
        self._converted: Converted | None = None
        self._path = ""
        self._heuristics = False

    def save(self, name: str, *, latest: bool = True, **kwargs: Any) -> None:
        """Save model and checkpointables to ``NAME.pth``, whole or not at all.

        Args:
            name: The name of the file, without ``.pth``.
            latest: Whether to write the name to ``last_checkpoint``, so that a run resumes from it.
            **kwargs: Other entries of the file, such as the iteration.

        Raises:
            SaveError: The file could not be written. Earlier files are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= self.class_names
        data |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info(f"Saving checkpoint to {path}")
        atomic_write(path, partial(torch.save, {**data, **kwargs}))
        if latest:
            self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write ``last_checkpoint``, whole or not at all."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        atomic_write(path, lambda file: file.write(last_filename_basename.encode()))

    def has_checkpoint(self) -> bool:
        """Return whether the folder has a checkpoint to resume from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the path of the latest checkpoint, damaged or not; "" where there is none."""
        return next(iter(resumable(self.save_dir)), "")

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the latest checkpoint that is whole; without any checkpoint, load ``path``.

        Args:
            path: The weights of a new run, see :meth:`load`.
            resume: Whether to look for checkpoints.

        Returns:
            The other entries of the file, such as the iteration.

        Raises:
            WeightsError: There are checkpoints, and none can be used.
            ConfigError: ``check_file`` refused the one that is whole.
        """
        # all processes load what the first one finds
        candidates = comm.all_gather(resumable(self.save_dir))[0] if resume else []
        if not candidates:
            return self.load(path, checkpointables=[])
        refused = []
        for candidate in candidates:
            try:
                verify_checksums(candidate)
                self._resumed = True
                return self.load(candidate)
            except WeightsError as error:
                refused.append(str(error))
                logger.warning(f"Not resumed from {error}")
            finally:
                self._resumed = False
        raise WeightsError(
            f"{self.save_dir}: none of its {len(candidates)} checkpoints can be resumed:\n"
            + "\n".join(refused)
        )

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file. The model is changed only if all of the checks pass.

        Args:
            path: A path or a URL (``catalog://``, ``detectron2://``, ``https://``), possibly with
                ``#sha256=...`` at its end. "" leaves the model as it is.
            *args: The ``checkpointables`` to load, as in Detectron2.
            **kwargs: The same by name.

        Returns:
            The other entries of the file, such as the iteration.

        Raises:
            FileNotFoundError: There is no such file.
            WeightsError: The file is damaged, unsafe, or of another network.
        """
        if not path:
            return super().load(path, *args, **kwargs)
        self._path, digest, self._heuristics = parse_path(path)
        self.report = None
        local = local_file(self._path, digest, self.path_manager)
        try:
            return super().load(local, *args, **kwargs)
        finally:
            # Detectron2 asserts that it is None, also after a file that was refused
            self._parsed_url_during_load = None
            self._converted = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            checkpoint = load_file(filename)
        except WeightsError:
            remove_copy(self._path, filename)  # else a saved login page would stay in the cache
            raise
        try:
            self._converted = convert(checkpoint, about=self._path)
        except WeightsError as error:
            raise WeightsError(f"{self._path}: {error}") from None
        if self._heuristics:
            self._converted.suffixes = True
        # the optimizer and other entries count only where the weights have their own place
        rest = checkpoint if isinstance(checkpoint.get("model"), dict) else {}
        rest = {key: value for key, value in rest.items() if type(value) is not Placeholder}
        return {**rest, "model": self._converted.state}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        converted = self._converted
        assert converted is not None  # _load_file was called before
        checkpoint.pop("model")
        if self.check_file is not None:
            report = match(converted, self.model)[2]
            self.check_file(self._path, checkpoint, report, self._resumed)
        found, report = fit(converted, self.model, self.cfg, self._path, whole=self.whole)
        self.model.load_state_dict(found, strict=False)
        self.report = report
        log_report(report, self._path)
