"""Which checkpoints of a folder a run can be resumed from."""

import contextlib
import os
import re
import zipfile
from pathlib import Path

from .errors import WeightsError

__all__ = ["checkpoint_iteration", "resumable", "verify_checksums"]

NUMBERED = re.compile(r"model_(\d{7,})\.pth")


def checkpoint_iteration(path: str | Path) -> int | None:
    """Return the iteration after which a checkpoint was saved, 99 for ``model_0000099.pth``.

    Args:
        path: The path of the file.

    Returns:
        The iteration; None for other names.
    """
    match = NUMBERED.fullmatch(Path(path).name)
    return int(match[1]) if match else None


def resumable(folder: str | Path) -> list[str]:
    """Return the paths of the checkpoints of a run, the latest first.

    ``last_checkpoint`` names the latest checkpoint that is complete. A numbered one that is newer
    was saved just before the run was stopped. ``model_best.pth`` is not among them: it is older.

    Args:
        folder: The output folder of a run. It need not exist.
    """
    folder = Path(folder)
    names = os.listdir(folder) if folder.is_dir() else []
    numbered = {n: i for n in names if (i := checkpoint_iteration(n)) is not None}
    order = sorted(numbered, key=lambda name: numbered[name], reverse=True)
    named = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        named = (folder / "last_checkpoint").read_text("utf-8").strip()
    if named not in names and "model_final.pth" in names:
        named = "model_final.pth"
    if named in names or (
        named and not order
    ):  # one that was deleted must be reported, not ignored
        # which numbered ones are newer than model_final is not known: it comes first
        newer = [n for n in order if named in numbered and numbered[n] > numbered[named]]
        order = [*newer, named, *(n for n in order if n != named and n not in newer)]
    return [str(folder / name) for name in order]


def verify_checksums(path: str | Path) -> None:
    """Check each part of a checkpoint by its checksum, which reading it does not do.

    Args:
        path: The path of a file of ``torch.save``.

    Raises:
        WeightsError: The file is cut off, or has a bit that is not as it was saved.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: it does not exist, but last_checkpoint names it; "
            "delete last_checkpoint to begin a new run"
        ) from None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{path}: it is cut off or damaged ({error})") from None
    if damaged is not None:
        raise WeightsError(f"{path}: it is damaged: the checksum of {damaged} is wrong")
