"""Files that must not be read: each is refused with its name and line, fast, and none runs code."""

import os
import time

import pytest
import yaml

import gn_det
from gn_det.config import ConfigError
from gn_det.config.yaml_loader import MAX_VALUES, read_yaml

# (file, line of the message or None, words of the message); CANARY is a path that code would make
RUNS = {
    "os_system": ("A: !!python/object/apply:os.system ['touch CANARY']", 1, "os.system"),
    "in_a_key": (
        "VERSION: 2\n!!python/object/apply:os.system ['touch CANARY']: 1",
        2,
        "plain name",
    ),
    "at_the_top": ("!!python/object/apply:os.system ['touch CANARY']", 1, "os.system"),
    "in_a_list": ("A:\n - 1\n - !!python/object/apply:os.system [touch CANARY]", 3, "os.system"),
    "a_list_that_is_no_map": ("A: !!map [32]", 1, "map"),
    "a_map_that_is_no_list": ("A: !!seq {a: 1}", 1, "seq"),
    "popen": ("\nA: !!python/object/apply:subprocess.Popen [[touch, CANARY]]", 2, "Popen"),
    "popen_new": ("A: !!python/object/new:subprocess.Popen [[touch, CANARY]]", 1, "object/new"),
    "new_with_state": (
        "A: !!python/object/new:type\n  args: [z, !!python/tuple [], {}]\n"
        "  state: !!python/object/apply:os.system ['touch CANARY']",
        1,
        "object/new:type",
    ),
    "eval": ("A: !!python/object/apply:eval [\"open('CANARY', 'w')\"]", 1, "apply:eval"),
    "exec": ("A: !!python/object/apply:exec [\"open('CANARY', 'w')\"]", 1, "apply:exec"),
    "long_tag": (
        "A: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch CANARY']",
        1,
        "os.system",
    ),
    "own_tag_prefix": (
        "%TAG !x! tag:yaml.org,2002:python/object/apply:\n---\nA: !x!os.system ['touch CANARY']",
        3,
        "os.system",
    ),
    "by_an_alias": ("A: &a !!python/object/apply:os.system ['touch CANARY']\nB: *a", 1, "os.syst"),
    "by_a_merge_key": (
        "A:\n  <<: !!python/object/apply:os.system ['touch CANARY']",
        2,
        "takes a mapping",
    ),
    "in_a_merged_mapping": (
        "A: {<<: {B: !!python/object/apply:os.system ['touch CANARY']}}",
        1,
        "os.system",
    ),
    "in_base": ("_BASE_: !!python/object/apply:os.system ['touch CANARY']", 1, "os.system"),
    "name": ("A: !!python/name:os.system", 1, "python/name"),
    "module": ("A: !!python/module:os", 1, "python/module"),
    "object": ("A: !!python/object:os.stat_result {}", 1, "python/object"),
}
MISLEADS = {
    "tuple": ("A: !!python/tuple [1, 2]", 1, "write a list"),
    "custom_tag": ("A: 1\nB: !secret x", 2, "!secret"),
    "set": ("A: !!set {a, b}", 1, "!!set"),
    "binary": ("A: !!binary aGVsbG8=", 1, "!!binary"),
    "date": ("A: 2018-03-22", 1, "quotes"),
    "tagged_mapping": ("A: !!omap [a: 1]", 1, "!!omap"),
    "tagged_top": ("!mine\nA: 1", 1, "!mine"),
    "not_a_number": ("A: !!int many", 1, "'many' is not of YAML's type int"),
    "no_number": ("A: !!int ''", 1, "type int"),
    "equals_sign": ("A: =", 1, "!!value"),
    "key_twice": (
        "MODEL:\n  GN:\n    EPS: 1\n  MASK_ON: True\n  GN: {}",
        5,
        "MODEL.GN is given tw",
    ),
    "key_twice_in_two_spellings": ("A: 1\n'A': 2", 2, "in line 1 and in line 2"),
    "merged_twice": ("A: &a {B: 1}\nC:\n  <<: *a\n  <<: *a", 4, "given twice"),
    "merge_of_a_number": ("A:\n  <<: 3", 2, "takes a mapping"),
    "merge_of_numbers": ("A:\n  <<: [3]", 2, "takes a mapping"),
    "number_as_key": ("A: 1\n3: 4", 2, "'3' is not text"),
    "yes_as_key": ("yes: 4", 1, "boolean"),
    "null_as_key": ("~: 4", 1, "null"),
    "mapping_as_key": ("? {a: b}\n: 4", 1, "not a plain name"),
    "escape_codes_in_key": ('"\\e[31mA": 4', 1, "cannot be printed"),
    "contains_itself": ("A: &a\n  B: *a", 1, "contains itself"),
    "list_contains_itself": ("A: &a [*a]", 1, "contains itself"),
    "unknown_alias": ("A: *nowhere", 1, "undefined alias"),
    "two_documents": ("A: 1\n---\nA: 2", 2, "single document"),
    "tab": ("A:\n\tB: 1", 2, "not tabs"),
    "open_bracket": ("A: [1, 2\nB: 3\n", 2, "not YAML"),
    "future_version": ("%YAML 9.9\n---\nA: 1", 1, "not YAML"),
    "impossible_character": ('A: "\\UFFFFFFFF"', 1, "not YAML"),
    "empty": ("", None, "no 'KEY: value' lines"),
    "only_comments": ("# A: 1\n", None, "no 'KEY: value' lines"),
    "list": ("- A\n- B\n", 1, "no 'KEY: value' lines"),
    "text": ("root:x:0:0:root:/root:/bin/bash\n", 1, "no 'KEY: value' lines"),
    "nul": (b"A: 1\nB: x\0y\n", 2, "a character that is not text (0x0)"),
    "utf16": ("A: 1".encode("utf-16"), None, "UTF-16"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 1, "UTF-8"),
    "latin1": ("A: 1\nB: caf\xe9\n".encode("latin-1"), 2, "UTF-8"),
}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)
MERGE_BOMB = "a: &a {k: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 20)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi")
)
SWALLOWS = {
    "alias_bomb": (BOMB, 1, f"more than {MAX_VALUES} values"),
    "merge_bomb": (MERGE_BOMB, None, f"more than {MAX_VALUES} values"),
    "many_values": (f"A: [{'1,' * (MAX_VALUES + 1)}]", 1, f"more than {MAX_VALUES} values"),
    "deep_lists": ("A: " + "[" * 100_000, 1, "more than 32 deep"),
    "deep_mappings": ("A: " + "{a: " * 1000, 1, "more than 32 deep"),
    "deep_blocks": ("\n".join(" " * n + "a:" for n in range(500)), 32, "more than 32 deep"),
    "deep_aliases": (
        "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(50)),
        None,
        "more than 32 deep",
    ),
    # yacs would read it as a Python literal, and fail with a TypeError
    "impossible_literal": ("A: '{[]: 1}'", 1, "cannot be a value"),
    "long_text": (f"A: {'x' * 5000}", 1, "more than 4096 characters"),
    "long_number": ("A: " + "9" * 100_000, 1, "more than 4096 characters"),
    "giant": ("A: 1\n" + "#" * 1_000_000, None, "more than 1 MB"),
}


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [pytest.param(*case, id=name) for name, case in {**RUNS, **MISLEADS, **SWALLOWS}.items()],
)
def test_refused(tmp_path, content, line, words):
    canary, path = tmp_path / "canary", tmp_path / "hostile.yaml"
    if isinstance(content, str):
        content = content.replace("CANARY", str(canary)).encode()
    path.write_bytes(content)
    cfg = gn_det.get_cfg()
    before = cfg.clone()
    start = time.process_time()
    with pytest.raises(ConfigError) as error:
        cfg.merge_from_file(path)
    assert time.process_time() - start < 5
    message = str(error.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}:")
    assert words in message
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    assert not canary.exists()
    assert cfg == before


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("!!int many", "'many' is not of YAML's type int."),
        ("!!int ''", "'' is not of YAML's type int."),
        ("!!float 1.x", "'1.x' is not of YAML's type float."),
        ("!!bool perhaps", "'perhaps' is not of YAML's type bool."),
    ],
)
def test_value_of_another_type_than_its_tag(tmp_path, value, words):
    path = tmp_path / "a.yaml"
    path.write_text(f"VERSION: 2\nSOLVER:\n  MAX_ITER: {value}\n")
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert str(error.value) == f"{path}:3: {words}"


def test_what_pyyaml_cannot_construct(tmp_path, monkeypatch):
    """Its own error has several lines, and tells of Python's nodes."""

    def refuse(self, node):
        raise yaml.constructor.ConstructorError("while", node.start_mark, "found unconstructable")

    monkeypatch.setattr(yaml.SafeLoader, "construct_object", refuse)
    path = tmp_path / "a.yaml"
    path.write_text("VERSION: 2\n")
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert str(error.value) == f"{path}:1: 'VERSION' is not of YAML's type str."


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkdir, "a folder"),
        (os.mkfifo, "a pipe or a device"),
        (lambda path: os.symlink("/dev/zero", path), "a pipe or a device"),
    ],
)
def test_what_is_no_file(tmp_path, make, words):
    path = tmp_path / "other.yaml"
    make(path)
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("VERSION: 2\n_BASE_: other.yaml\n")
    for named in (path, leaf):
        with pytest.raises(ConfigError, match=words) as error:
            gn_det.get_cfg().merge_from_file(named)
        assert str(error.value).startswith(f"{path}: ")
    assert f"{leaf}:2" in str(error.value)


def test_values_and_lines(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(
        b"\xef\xbb\xbf# with a byte order mark\n"
        b"A: &a {B: 1, C: [1.5, x]}\n"
        b"D:\n  E: 1e-3\n  <<: *a\n  C: ~\n  F: [*a, yes]\n"
    )
    document = read_yaml(path)
    a = {"B": 1, "C": [1.5, "x"]}
    assert document.tree == {"A": a, "D": {"E": "1e-3", "B": 1, "C": None, "F": [a, True]}}
    lines = {".".join(key): line for key, line in document.lines.items()}
    assert {k: lines[k] for k in ("A", "A.B", "D", "D.E", "D.B", "D.C")} == {
        **{"A": 2, "A.B": 2, "D": 3},
        **{"D.E": 4, "D.B": 2, "D.C": 6},
    }
    # an alias is a copy: one use does not change the other
    document.tree["A"]["B"] = 7
    assert document.tree["D"]["F"][0] == a


def test_first_of_merged_mappings_wins_as_in_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("A: &a {X: 1}\nB: &b {X: 2, Y: 3}\nC: {<<: [*a, *b], Z: 4}\n")
    assert read_yaml(path).tree["C"] == {"X": 1, "Y": 3, "Z": 4}
