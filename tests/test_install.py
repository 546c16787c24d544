"""What requirements/install.sh leaves alone. It ends before it would make or download anything."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkouts(tmp_path):
    """Two checkouts; the second has an environment."""
    for name in ("here", "other"):
        shutil.copytree(ROOT / "requirements", tmp_path / name / "requirements")
        shutil.copy(ROOT / "setup.py", tmp_path / name)
    mark(tmp_path / "other" / ".venv", tmp_path / "other" / ".venv")
    return tmp_path / "here", tmp_path / "other"


def mark(folder, made_for):
    """Make a folder that looks like an environment that was made for a path."""
    folder.mkdir(exist_ok=True)
    text = f"\nidentity: Python 3.11, {made_for}, over -\npython: -\n"
    (folder / ".gn_det-venv").write_text(text)
    (folder / "precious").write_text("x")


def refused(checkout, venv=".venv"):
    """Return the one line with which a set-up of ``venv`` is refused."""
    done = subprocess.run(
        ["requirements/install.sh", sys.executable, venv],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "left alone" in done.stderr
    assert "make VENV=" in done.stderr
    return done.stderr


def test_a_link_to_the_environment_of_another_checkout(checkouts):
    here, other = checkouts
    (here / ".venv").symlink_to(other / ".venv")
    assert str(other / ".venv") in refused(here)
    assert (other / ".venv" / "precious").exists()


def test_a_link_in_a_folder_with_a_space(checkouts):
    here, other = checkouts
    here = here.rename(here.with_name("a b, over c"))
    (here / ".venv").symlink_to(other / ".venv")
    refused(here)
    assert (other / ".venv" / "precious").exists()


def test_the_environment_of_another_checkout_by_its_path(checkouts):
    here, other = checkouts
    refused(here, "../other/.venv")
    refused(here, str(other / ".venv"))
    assert (other / ".venv" / "precious").exists()


def test_a_copy_or_a_checkout_that_was_moved(checkouts):
    here, other = checkouts
    shutil.copytree(other / ".venv", here / ".venv")
    refused(here)
    moved = other.rename(other.with_name("moved"))
    refused(moved)
    assert (here / ".venv" / "precious").exists()
    assert (moved / ".venv" / "precious").exists()


def test_a_folder_without_a_marker(checkouts):
    here, _ = checkouts
    (here / ".venv").mkdir()
    (here / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    assert "was not made by this set-up" in refused(here)
    assert (here / ".venv" / "pyvenv.cfg").exists()
