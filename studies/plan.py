"""The description of a study in a YAML file, and the trainings that it consists of.

title: one line
paper: the figure or table, and what it shows
published: {METRIC: {VALUE: number}}    # two axes: {METRIC: {VALUE: {VALUE: number}}}
tool: pretrain                          # or detection
config: base/FILE.yaml                  # relative to this file, or gn_det://NAME.yaml
opts: {KEY: VALUE}                      # for every run; "{folder}" is the study's folder
before: {NAME: {tool: , config: , opts: }}    # runs whose weights the others start from
vary: {AXIS: {VALUE: {KEY: VALUE}}}     # one or two axes
seeds: [1, 2]
metrics: [val_error, train_error]       # keys of studies.curves.METRICS
threads: 1                              # PyTorch's threads of each run
quick: {opts: , seeds: , vary: {AXIS: [VALUE, ...]}, before: {NAME: {KEY: VALUE}}}
seen: the observations, in a paragraph
"""

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gn_det.config import ConfigError
from gn_det.config.yaml_loader import read_yaml

from .curves import METRICS

__all__ = ["Run", "Study", "list_studies", "load_study"]

TOOLS = ("pretrain", "detection")
REQUIRED = ("title", "paper", "tool", "config", "vary", "metrics")
ALLOWED = (*REQUIRED, "published", "opts", "before", "seeds", "threads", "quick", "seen")


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: The name of its folder in the study's folder.
        tool: "pretrain" or "detection".
        config: The path of a config file, or the name of one of gn_det's configs.
        opts: The keys to change. "{folder}" in a value stands for the study's folder.
        cell: The value of each axis; empty for a run that others start from.
        seed: The seed, as in ``opts["SEED"]``.
        threads: The number of PyTorch's threads.
    """

    name: str
    tool: str
    config: str
    opts: dict[str, Any]
    cell: dict[str, str] = field(default_factory=dict)
    seed: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Study:
    """A study. The attributes are the keys of its file."""

    name: str
    title: str
    paper: str
    tool: str
    config: str
    vary: dict[str, dict[str, dict[str, Any]]]
    metrics: list[str]
    published: dict[str, dict[str, Any]] = field(default_factory=dict)
    opts: dict[str, Any] = field(default_factory=dict)
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [1])
    threads: int = 1
    seen: str = ""

    @property
    def axes(self) -> dict[str, list[str]]:
        """The names of the values of each axis."""
        return {axis: list(values) for axis, values in self.vary.items()}

    def runs_before(self) -> list[Run]:
        """Return the runs that the others start from."""
        return [
            Run(
                _slug(name),
                b["tool"],
                b["config"],
                {**b.get("opts", {}), "SEED": 1},
                threads=self.threads,
            )
            for name, b in self.before.items()
        ]

    def runs(self) -> list[Run]:
        """Return the product of axes and seeds.

        All runs of a seed come before the next seed, so that an interrupted study has whole rounds.
        """
        runs = []
        for seed in self.seeds:
            for values in itertools.product(*self.vary.values()):
                opts = dict(self.opts)
                for axis, value in zip(self.vary, values):
                    opts.update(self.vary[axis][value])
                cell = dict(zip(self.vary, values))
                name = "_".join([*map(_slug, values), f"seed{seed}"])
                opts["SEED"] = seed
                runs.append(Run(name, self.tool, self.config, opts, cell, seed, self.threads))
        return runs


def list_studies() -> list[str]:
    """Return the names of all studies, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_study(name: str, *, quick: bool = False) -> Study:
    """Return the study called ``name``.

    Args:
        name: The name of a study, with dashes or underscores, or the path of a YAML file.
        quick: Whether to return the short form, which shows only that the study works.

    Raises:
        ConfigError: There is no such study, or the file does not describe a study.
    """
    path = Path(name) if name.endswith(".yaml") else _folder() / f"{name.replace('-', '_')}.yaml"
    if not path.is_file():
        raise ConfigError(f"There is no study {name}; there are {', '.join(list_studies())}.")
    tree = read_yaml(path).tree
    _check(path, tree)
    short = tree.pop("quick", None) or {}
    if quick:
        _shorten(path, tree, short)
    tree["config"] = _config(path, tree["config"])
    for one in tree.get("before", {}).values():
        one["config"] = _config(path, one["config"])
    study = Study(name=path.stem, **tree)
    names = [run.name for run in (*study.runs_before(), *study.runs())]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two runs have the same name: {', '.join(names)}.")
    return study


def _folder() -> Path:
    return Path(__file__).with_name("configs")


def _config(path: Path, name: str) -> str:
    beside = path.parent / name
    return str(beside) if beside.is_file() else name


def _slug(value: str) -> str:
    """Return a value as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", value)


def _check(path: Path, tree: dict[str, Any]) -> None:
    missing = [key for key in REQUIRED if key not in tree]
    unknown = [key for key in tree if key not in ALLOWED]
    if missing or unknown:
        what = [f"{', '.join(missing)} missing"] * bool(missing)
        what += [f"{', '.join(unknown)} unknown"] * bool(unknown)
        raise ConfigError(f"{path}: {'; '.join(what)}. A study has {', '.join(ALLOWED)}.")
    if not 1 <= len(tree["vary"]) <= 2:
        raise ConfigError(f"{path}: vary has {len(tree['vary'])} axes; a table has one or two.")
    for axis, values in tree["vary"].items():
        if not isinstance(values, dict) or not values:
            raise ConfigError(f"{path}: vary {axis} needs {{VALUE: {{KEY: VALUE}}}}, not {values}.")
        for value, opts in values.items():
            if not isinstance(opts, dict):
                raise ConfigError(f"{path}: vary {axis} {value} needs {{KEY: VALUE}}, not {opts}.")
    for tool in (tree["tool"], *(one.get("tool") for one in tree.get("before", {}).values())):
        if tool not in TOOLS:
            raise ConfigError(f"{path}: tool is {tool}; known are {', '.join(TOOLS)}.")
    for name, one in tree.get("before", {}).items():
        if "config" not in one:
            raise ConfigError(f"{path}: before {name} has no config.")
    for key in ("seeds", "metrics"):
        if not isinstance(tree.get(key, []), list):
            raise ConfigError(f"{path}: {key} is a list, not {tree[key]}.")
    wrong = [name for name in tree["metrics"] if name not in METRICS]
    if wrong:
        raise ConfigError(
            f"{path}: metrics has {', '.join(wrong)}; known are {', '.join(METRICS)}."
        )
    if all(METRICS[name].key.startswith("responses/") for name in tree["metrics"]):
        raise ConfigError(f"{path}: metrics needs one besides percentiles, such as val_error.")


def _shorten(path: Path, tree: dict[str, Any], short: dict[str, Any]) -> None:
    shorter = short.get("opts", {})
    tree["opts"] = {**tree.get("opts", {}), **shorter}
    tree["seeds"] = short.get("seeds", [1])
    for values in tree["vary"].values():
        for value, opts in values.items():
            values[value] = {key: shorter.get(key, old) for key, old in opts.items()}
    for axis, chosen in short.get("vary", {}).items():
        wrong = [value for value in chosen if value not in tree["vary"].get(axis, {})]
        if wrong:
            raise ConfigError(f"{path}: quick has {axis} {', '.join(wrong)}, which is not in vary.")
        tree["vary"][axis] = {value: tree["vary"][axis][value] for value in chosen}
    for name, opts in short.get("before", {}).items():
        one = tree["before"][name]
        one["opts"] = {**one.get("opts", {}), **opts}
