import argparse
import builtins
import datetime
import functools
import io
import os
import pathlib
import pickle
import pickletools
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest

from gn_det.checkpoint import WeightsError, load_file
from gn_det.checkpoint.safe_content import Placeholder
from gn_det.checkpoint.safe_numpy import BUILDS, CALLS
from gn_det.checkpoint.safe_pickle import DamagedPickle, load_pickle

CANARY = "canary-of-the-pickle-tests"
TOUCH = f"touch {CANARY}"
OPEN = f"open('{CANARY}', 'w').close()"


def load(data: bytes):
    return load_pickle(io.BytesIO(data), len(data), calls=CALLS, builds=BUILDS)


class Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def body(value, protocol=2) -> bytes:
    """Return the operations that push a value."""
    data = pickletools.optimize(pickle.dumps(value, protocol))[:-1]
    return data[2:] if protocol > 1 else data


def call(module: str, name: str, *arguments) -> bytes:
    """A pickle of protocol 2 that calls a function by its name, whether it is there or not."""
    return b"\x80\x02c%b\n%b\n%bR." % (module.encode(), name.encode(), body(arguments))


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def stack_call(module: str, name: str, *arguments) -> bytes:
    """The same with STACK_GLOBAL of protocol 4, which may name an attribute of an attribute."""
    return b"\x80\x04%b%b\x93%bR." % (text(module), text(name), body(arguments))


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
F4 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R"


# what is in the file, and the name that the error must have
NAMED = {
    **{
        f"os.system, protocol {protocol}": (
            pickle.dumps({"a": Call(os.system, TOUCH)}, protocol),
            "posix.system",
        )
        for protocol in range(6)
    },
    **{
        f"builtins.{function.__name__}, protocol {protocol}": (
            pickle.dumps(Call(function, OPEN), protocol),
            f"builtins.{function.__name__}",
        )
        for function in (eval, exec)
        for protocol in (0, 2, 5)
    },
    **{
        f"{module}.{name}": (call(module, name, *arguments), f"{module}.{name}")
        for module, name, *arguments in (
            ("os", "system", TOUCH),
            ("os", "popen", TOUCH),
            ("nt", "system", TOUCH),
            ("subprocess", "Popen", TOUCH.split()),
            ("subprocess", "check_output", TOUCH.split()),
            ("subprocess", "getoutput", TOUCH),
            ("importlib", "import_module", "antigravity"),
            ("webbrowser", "open", "http://localhost"),
            ("runpy", "run_path", "evil.py"),
            ("pty", "spawn", "sh"),
            ("imp", "load_source", "a", "evil.py"),
            ("platform", "popen", TOUCH),
            ("multiprocessing.util", "spawnv_passfds", b"sh", [], []),
            ("_posixsubprocess", "fork_exec", 0),
            ("io", "open", CANARY, "w"),
            ("_io", "FileIO", CANARY, "w"),
            ("codecs", "open", CANARY, "w"),
            ("marshal", "loads", b""),
            ("torch.hub", "load", "someone/something"),
            ("torch", "load", "other.pth"),
            ("torch.storage", "_load_from_bytes", pickle.dumps(Call(os.system, TOUCH))),
            ("pickle", "loads", pickle.dumps(Call(os.system, TOUCH))),
            ("_pickle", "loads", pickle.dumps(Call(os.system, TOUCH))),
            ("timeit", "timeit", OPEN),
            ("pdb", "run", OPEN),
            ("code", "interact"),
            ("operator", "attrgetter", "system"),
            ("operator", "methodcaller", "system", TOUCH),
            ("types", "CodeType", 0),
            ("types", "FunctionType", 0),
            ("ctypes", "CDLL", "libc.so.6"),
            ("shutil", "rmtree", "somewhere"),
            ("socket", "create_connection", ("localhost", 1)),
            ("copyreg", "add_extension", "os", "system", 1),
            ("numpy", "load", "other.npy"),
            ("numpy", "fromfile", "/etc/passwd"),
            ("numpy.testing._private.utils", "runstring", OPEN, {}),
            ("yaml", "unsafe_load", "!!python/object/apply:os.system ['x']"),
        )
    },
    "a name of Python 2": (call("commands", "getoutput", TOUCH), "subprocess.getoutput"),
    "builtins.getattr": (call("__builtin__", "getattr", "a", "b"), "builtins.getattr"),
    "builtins.__import__": (call("builtins", "__import__", "os"), "builtins.__import__"),
    **{
        f"dotted {module} {name}": (stack_call(module, name, TOUCH), f"{module}.{name}")
        for module, name in (
            ("numpy", "core.multiarray.os.system"),
            ("numpy.core.multiarray", "os.system"),
            ("numpy", "_core.multiarray.sys.modules"),
            ("numpy", "ndarray.__class__"),
            ("collections", "OrderedDict.__init__.__globals__"),
            ("collections", "_sys.modules"),
            ("builtins", "set.__class__"),
            ("_codecs", "encode.__self__"),
        )
    },
    "deep in dict and list": (
        pickle.dumps({"model": [{"a": ({"b": [1, Call(os.system, TOUCH)]},)}]}, 2),
        "posix.system",
    ),
    "after good arrays": (
        pickle.dumps({"w": np.ones(3), "x": Call(builtins.exec, OPEN)}, 4),
        "builtins.exec",
    ),
    "as a key": (pickle.dumps({Call(os.system, TOUCH): 1}, 4), "posix.system"),
    "as an argument of an OrderedDict": (
        b"\x80\x02ccollections\nOrderedDict\ncos\nsystem\nX\x01\x00\x00\x00a\x85R\x85R.",
        "os.system",
    ),
    "a bad class for _reconstruct": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncsubprocess\nPopen\n.",
        "subprocess.Popen",
    ),
    "object array with a call": (
        pickle.dumps(np.array([Call(os.system, TOUCH)], object), 5),
        "posix.system",
    ),
    "INST": (b"(S'" + TOUCH.encode() + b"'\nios\nsystem\n.", "os.system"),
    "OBJ": (b"(cos\nsystem\nX\x01\x00\x00\x00ao.", "os.system"),
    "NEWOBJ_EX": (b"\x80\x04" + text("os") + text("system") + b"\x93)}\x92.", "os.system"),
    "EXT1": (b"\x80\x02\x82\x07.", "extension 7 of copyreg"),
    "EXT2": (b"\x80\x02\x83\x07\x01.", "extension 263 of copyreg"),
    "EXT4": (b"\x80\x02\x84\x07\x00\x00\x00.", "extension 7 of copyreg"),
    "BINPERSID": (b"\x80\x02X\x04\x00\x00\x00evilQ.", "persistent id"),
    "buffer elsewhere": (b"\x80\x05\x97.", "buffer outside of the file"),
    "state of a list": (b"\x80\x02]}b.", "the state of list"),
    "state of what is left out": (
        b"\x80\x02cargparse\nNamespace\n)\x81cos\nsystem\nb.",
        "os.system",
    ),
    "list of what is left out": (b"\x80\x02ca\nHistory\n)\x81(cos\nsystem\ne.", "os.system"),
    "a method hidden by an attribute": (
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
        "OrderedDict",
    ),
    "bytearray of a size": (
        call("builtins", "bytearray", 1 << 40),
        "builtins.bytearray",
    ),
    "encode as a decoder": (call("_codecs", "encode", "a", "rot13"), "_codecs.encode"),
    "state of an array: object list": (
        b"\x80\x02" + ARRAY + b"(K\x01K\x02\x85" + F4 + b"\x89]tb.",
        "ndarray",
    ),
    "state of an array: no tuple": (b"\x80\x02" + ARRAY + b"K\x01b.", "ndarray"),
    "state of an array: negative shape": (
        b"\x80\x02" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + F4 + b"\x89C\x00tb.",
        "ndarray",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_refuses_a_hostile_file_by_name_before_it_runs(case, tmp_path, refusal):
    data, name = NAMED[case]
    path = tmp_path / "evil.pkl"
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith(f"{path}: refused")
    assert name in message


# operations that push an object of another class, and the name that stands in the log's line
OTHERS = {
    "argparse.Namespace": body(argparse.Namespace(lr=0.1, path=[1, {}])),
    **{
        f"argparse.Namespace, protocol {protocol}": body(argparse.Namespace(lr=0.1), protocol)
        for protocol in (0, 1)
    },
    "pathlib.PosixPath": body(pathlib.PurePosixPath("a/b")).replace(b"PurePosix", b"Posix"),
    "datetime.timedelta": body(datetime.timedelta(3)),
    "types.SimpleNamespace": body(types.SimpleNamespace(a=1)),
    "collections.deque": body(deque([1.5, 2.5], maxlen=20)),
    "collections.defaultdict": body(defaultdict(list, {"loss": [1.0, 2.0]})),
    "collections.Counter": body(Counter("aab")),
    "functools.partial": body(functools.partial(max, key=len)),
    "logging.LogRecord": b"clogging\nLogRecord\n)\x81}X\x01\0\0\0aK\x01sb",
    "a.History, appended": b"ca\nHistory\n)\x81(K\x01K\x02e",
    "a.History, one more": b"ca\nHistory\n)\x81K\x01a",
    "a.Config, items": b"ca\nConfig\n)\x81(X\x01\0\0\0aK\x01u",
    "a.Config, an item": b"ca\nConfig\n)\x81K\x01K\x02s",
    "a.Members, added": b"ca\nMembers\n)\x81(K\x01\x90",
    "a.Slots, state of two": b"ca\nSlots\n)\x81N}X\x01\0\0\0aK\x01s\x86b",
    "a.Method, called again": b"ca\nMethod\n)\x81)R",
    "a.Old, INST": b"(K\x01ia\nOld\n",
    "a.Old, OBJ": b"(ca\nOld\nK\x01o",
    "a.New, with keywords": b"ca\nNew\n)}X\x01\0\0\0aK\x01s\x92",
    "a.A.B": text("a") + text("A.B") + b"\x93",
    "numpy.zeros": b"cnumpy\nzeros\n\x8a\x06\0\0\0\0\0\x01\x85R",
    "numpy.ndarray": b"cnumpy\nndarray\n(J\x00\x00\x00\x40t\x81",
    "numpy.matrix": ARRAY.replace(b"ndarray", b"matrix"),
    "numpy.ma.core._mareconstruct": b"cnumpy.ma.core\n_mareconstruct\nK\x00\x85R",
    "numpy.dtype, as content": F4,
    "numpy.dtype, as the class of _reconstruct": ARRAY.replace(b"ndarray", b"dtype"),
    "numpy.ndarray, objects": body(np.array([None, "a"], object)),
    "numpy.ndarray, structured": body(np.zeros(1, "i4,f4")),
    "numpy.ndarray, datetimes": body(np.zeros(1, "M8[s]")),
    "numpy.generic": body(np.datetime64(3, "s")),
    "_codecs.encode, as content": b"c_codecs\nencode\n",
    "_codecs.encode, with a state": b"c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb",
    "collections.OrderedDict, with a state": b"ccollections\nOrderedDict\nN}\x86b",
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_objects_are_left_out_with_a_line(case, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    name = case.partition(",")[0]
    weights = np.arange(6, dtype=np.float32)
    data = b"\x80\x04}(%bX\x04\0\0\0args%b%bK\x07u."
    data %= body("w") + body(weights), OTHERS[case], body("epoch")
    (tmp_path / "weights.pkl").write_bytes(data)
    before, modules = set(os.listdir()), set(sys.modules)
    content = load_file("weights.pkl")
    assert set(sys.modules) == modules  # nothing was imported for it
    np.testing.assert_array_equal(content["w"], weights)
    assert content["epoch"] == 7
    assert set(content) == {"w", "args", "epoch"}
    assert caplog.messages == [
        f"weights.pkl: left out, neither tensors nor plain data: args ({name})."
    ]
    assert set(os.listdir()) == before


def test_what_is_set_on_an_object_that_is_left_out_is_dropped():
    log = load(b"\x80\x02ca\nLog\n)\x81}X\x01\0\0\0aK\x01sb.")
    assert type(log) is Placeholder
    assert log.name == "a.Log"
    assert repr(log) == "Placeholder('a.Log')"
    with pytest.raises(AttributeError):
        _ = log.a


def test_an_object_that_is_there_twice_is_left_out_twice(tmp_path, caplog):
    shared = argparse.Namespace()
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"w": np.ones(1), "a": shared, "b": [shared, (shared,)]}))
    load_file(path)
    name = "(argparse.Namespace)"
    assert f"nor plain data: a {name}, b.0 {name}, b.1.0 {name}." in caplog.text


class Net:
    """A whole model, pickled."""


def test_a_whole_pickled_object_is_named(tmp_path, refusal):
    path = tmp_path / "model.pkl"
    path.write_bytes(
        pickle.dumps(Net()).replace(Net.__module__.encode(), b"x" * len(Net.__module__))
    )
    assert "Net, not weights by name: save the model's state_dict() instead" in refusal(path)


def test_a_class_that_is_called_is_read_as_what_it_is():
    assert load(b"(icollections\nOrderedDict\n.") == OrderedDict()


def test_a_name_is_shown_on_one_line():
    with pytest.raises(DamagedPickle, match=r"it names 'os\\n\\x1b\[31m.system'"):
        load(b"\x80\x04" + text("os\n\x1b[31m") + text("system") + b"\x93.")


def test_the_hostile_files_would_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(NAMED["os.system, protocol 2"][0])
    assert CANARY in os.listdir()


@pytest.mark.parametrize("protocol", range(6))
def test_says_that_a_pickle_is_cut_off_wherever(protocol):
    data = pickle.dumps({"a": np.arange(300.0), "b": ["text", b"bytes", 1.5, 1 << 40]}, protocol)
    for length in range(1, len(data) - 1, 7):
        with pytest.raises(DamagedPickle):
            load(data[:length])


@pytest.mark.parametrize(
    "data", [b"\x80\x02.", b"\x80\x02t.", b"\x80\x02h\x05.", b"\x80\x02K\x01\x86.", b"\x80\x09N."]
)
def test_says_that_a_pickle_is_damaged(data):
    with pytest.raises(DamagedPickle, match="damaged"):
        load(data)


def test_refuses_a_persistent_id_of_protocol_0():
    with pytest.raises(DamagedPickle, match="persistent id 'evil'"):
        load(b"Pevil\n.")


def test_one_changed_byte_is_read_or_refused_in_plain_words():
    data = pickle.dumps({"a": np.arange(4.0), "b": [("text", 1.5)], "c": {1, 2}}, 4)
    outcomes = set()
    for position in range(len(data)):
        for byte in (0, 40, 82, 98, 255):
            changed = data[:position] + bytes([byte]) + data[position + 1 :]
            try:
                load(changed)
                outcomes.add("read")
            except WeightsError:  # and nothing else
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_shared_strings_tuples_and_arrays_stay_shared():
    weights, betas = np.arange(3.0), (0.9, 0.999)
    data = pickle.dumps({"a": weights, "b": weights, "groups": [betas] * 50}, 2)
    content = load(data)
    assert content["a"] is content["b"]
    assert content["groups"] == [betas] * 50


def test_reads_one_pickle_and_stays_behind_it():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps(2))
    assert [load_pickle(file, 100, calls={}, builds={}) for _ in range(2)] == [1, 2]
