import builtins
import contextlib
import gc
import io
import os
import pickle
import pickletools

import numpy as np
import pytest

from gn_det.checkpoint import WeightsError
from gn_det.checkpoint.safe_numpy import load_numpy_pickle
from gn_det.checkpoint.safe_pickle import DamagedPickle

CANARY = "canary-of-the-pickle-tests"
TOUCH = f"touch {CANARY}"
OPEN = f"open('{CANARY}', 'w').close()"


class Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def body(value, protocol=2) -> bytes:
    """Return the operations that push a value."""
    return pickletools.optimize(pickle.dumps(value, protocol))[2:-1]


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
            ("torch.hub", "load", "someone/something"),
            ("torch", "load", "other.pth"),
            ("torch.storage", "_load_from_bytes", pickle.dumps(Call(os.system, TOUCH))),
            ("pickle", "loads", pickle.dumps(Call(os.system, TOUCH))),
            ("_pickle", "loads", pickle.dumps(Call(os.system, TOUCH))),
            ("timeit", "timeit", OPEN),
            ("pdb", "run", OPEN),
            ("code", "interact"),
            ("functools", "partial", "print"),
            ("operator", "attrgetter", "system"),
            ("operator", "methodcaller", "system", TOUCH),
            ("types", "CodeType", 0),
            ("types", "FunctionType", 0),
            ("ctypes", "CDLL", "libc.so.6"),
            ("shutil", "rmtree", "somewhere"),
            ("socket", "create_connection", ("localhost", 1)),
            ("copyreg", "add_extension", "os", "system", 1),
            ("collections", "defaultdict"),
            ("numpy", "load", "other.npy"),
            ("numpy", "fromfile", "/etc/passwd"),
            ("numpy", "zeros", (1 << 40,)),
            ("numpy", "matrix", "1"),
            ("numpy.ma.core", "_mareconstruct", 0),
            ("numpy.testing._private.utils", "runstring", OPEN, {}),
            ("numpy.core.multiarray", "zeros", (1 << 40,)),
            ("detectron2.config", "LazyConfig", "x"),
            ("yaml", "unsafe_load", "!!python/object/apply:os.system ['x']"),
        )
    },
    "a name of Python 2": (call("commands", "getoutput", TOUCH), "subprocess.getoutput"),
    "copyreg._reconstructor": (
        b"\x80\x02ccopy_reg\n_reconstructor\nc__builtin__\nobject\n\x85R.",
        "copyreg._reconstructor",
    ),
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
    "a function as the class of _reconstruct": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.",
        "numpy.core.multiarray._reconstruct",
    ),
    "object array": (pickle.dumps(np.array([None, "a"], object), 2), "numpy.dtype('O8')"),
    "object array with a call": (
        pickle.dumps(np.array([Call(os.system, TOUCH)], object), 5),
        "numpy.dtype('O8')",
    ),
    "array of strings": (pickle.dumps(np.array(["a"]), 2), "numpy.dtype('U1')"),
    "structured array": (pickle.dumps(np.zeros(1, "i4,f4"), 2), "numpy.dtype('V8')"),
    "datetimes": (pickle.dumps(np.zeros(1, "M8[s]"), 2), "numpy.dtype('M8')"),
    "INST": (b"(S'" + TOUCH.encode() + b"'\nios\nsystem\n.", "os.system"),
    "INST of a known class": (b"(icollections\nOrderedDict\n.", "collections.OrderedDict"),
    "OBJ": (b"(cos\nsystem\nX\x01\x00\x00\x00ao.", "os.system"),
    "NEWOBJ": (b"\x80\x02cnumpy\nndarray\n(J\x00\x00\x00\x40t\x81.", "numpy.ndarray"),
    "NEWOBJ_EX": (b"\x80\x04" + text("os") + text("system") + b"\x93)}\x92.", "os.system"),
    "ndarray called": (call("numpy", "ndarray", (1 << 20, 1 << 20)), "numpy.ndarray"),
    "EXT1": (b"\x80\x02\x82\x07.", "extension 7 of copyreg"),
    "EXT2": (b"\x80\x02\x83\x07\x01.", "extension 263 of copyreg"),
    "EXT4": (b"\x80\x02\x84\x07\x00\x00\x00.", "extension 7 of copyreg"),
    "BINPERSID": (b"\x80\x02X\x04\x00\x00\x00evilQ.", "persistent id"),
    "buffer elsewhere": (b"\x80\x05\x97.", "buffer outside of the file"),
    "state of a function": (
        b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.",
        "_codecs.encode",
    ),
    "state of a class": (b"\x80\x02ccollections\nOrderedDict\nN}\x86b.", "collections.OrderedDict"),
    "state of a list": (b"\x80\x02]}b.", "the state of list"),
    "a method hidden by an attribute": (
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
        "OrderedDict",
    ),
    "a function as content": (b"\x80\x02}K\x01c_codecs\nencode\ns.", "_codecs.encode"),
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
    "a name with a line break and colours": (
        b"\x80\x04" + text("os\n\x1b[31m") + text("system") + b"\x93.",
        r"os\n\x1b[31m.system",
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


def test_the_hostile_files_would_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(NAMED["os.system, protocol 2"][0])
    assert CANARY in os.listdir()


@pytest.mark.parametrize("protocol", range(6))
def test_says_that_a_pickle_is_cut_off_wherever(protocol):
    data = pickle.dumps({"a": np.arange(300.0), "b": ["text", b"bytes", 1.5, 1 << 40]}, protocol)
    for length in range(1, len(data) - 1, 7):
        with pytest.raises(DamagedPickle):
            load_numpy_pickle(io.BytesIO(data[:length]), length)


@pytest.mark.parametrize(
    "data", [b"\x80\x02.", b"\x80\x02t.", b"\x80\x02h\x05.", b"\x80\x02K\x01\x86.", b"\x80\x09N."]
)
def test_says_that_a_pickle_is_damaged(data):
    with pytest.raises(DamagedPickle, match="damaged"):
        load_numpy_pickle(io.BytesIO(data), len(data))


def test_refuses_a_persistent_id_of_protocol_0():
    with pytest.raises(DamagedPickle, match="persistent id 'evil'"):
        load_numpy_pickle(io.BytesIO(b"Pevil\n."), 7)


def test_one_changed_byte_is_read_or_refused_in_plain_words():
    data = pickle.dumps({"a": np.arange(4.0), "b": [("text", 1.5)], "c": {1, 2}}, 4)
    outcomes = set()
    for position in range(len(data)):
        for byte in (0, 40, 82, 98, 255):
            changed = data[:position] + bytes([byte]) + data[position + 1 :]
            try:
                load_numpy_pickle(io.BytesIO(changed), len(changed))
                outcomes.add("read")
            except WeightsError:  # and nothing else
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_shared_strings_tuples_and_arrays_stay_shared():
    weights, betas = np.arange(3.0), (0.9, 0.999)
    data = pickle.dumps({"a": weights, "b": weights, "groups": [betas] * 50}, 2)
    content = load_numpy_pickle(io.BytesIO(data), len(data))
    assert content["a"] is content["b"]
    assert content["groups"] == [betas] * 50


@pytest.mark.parametrize("data", [b"\x80\x02N.", b"\x80\x02"])
@pytest.mark.parametrize("collects", [True, False])
def test_leaves_the_garbage_collector_as_it_was(collects, data):
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with contextlib.suppress(WeightsError):
            load_numpy_pickle(io.BytesIO(data), len(data))
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()


def test_reads_one_pickle_and_stays_behind_it():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps(2))
    assert [load_numpy_pickle(file, 100), load_numpy_pickle(file, 100)] == [1, 2]
