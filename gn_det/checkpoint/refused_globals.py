"""Which names in a file reach for the system.

Nothing that a file names is imported or run, whatever the name is. But a file with such a name was
made to do harm, and whoever has it must know.
"""

__all__ = ["reaches_for_the_system"]

# Modules that run code, start programs, or read and write files and networks.
_MODULES = {
    *("os", "posix", "nt", "posixpath", "ntpath", "sys", "platform", "mmap", "fcntl", "pty"),
    *("subprocess", "_posixsubprocess", "multiprocessing", "asyncio", "threading", "_thread"),
    *("shutil", "tempfile", "shelve", "dbm", "ctypes", "_ctypes", "importlib", "imp", "pkgutil"),
    *("zipimport", "runpy", "codeop", "pdb", "bdb", "timeit", "cProfile", "doctest", "pydoc"),
    *("operator", "_operator", "copyreg", "pickle", "_pickle", "marshal", "yaml", "socket"),
    *("socketserver", "http", "urllib", "ftplib", "smtplib", "telnetlib", "xmlrpc", "requests"),
    *("aiohttp", "webbrowser", "antigravity", "pip", "ensurepip", "setuptools", "distutils"),
}
# Modules that other modules have inside, as in numpy.core.multiarray.os.system.
_INSIDE = {"os", "posix", "nt", "sys", "subprocess", "builtins", "importlib", "ctypes"}
# Single names, and packages with all that is in them. Each ends with the dot that may follow it.
_NAMES = (
    *("builtins.eval.", "builtins.exec.", "builtins.execfile.", "builtins.compile."),
    *("builtins.open.", "builtins.file.", "builtins.input.", "builtins.breakpoint."),
    *("builtins.getattr.", "builtins.setattr.", "builtins.delattr.", "builtins.apply."),
    *("builtins.globals.", "builtins.locals.", "builtins.vars.", "builtins.reload."),
    *("code.interact.", "code.InteractiveInterpreter.", "code.InteractiveConsole."),
    *("profile.run.", "profile.runctx.", "profile.Profile.", "trace.Trace."),
    *("io.open.", "io.FileIO.", "_io.open.", "_io.FileIO.", "codecs.open.", "types.CodeType."),
    *("types.FunctionType.", "types.LambdaType.", "types.MethodType.", "types.ModuleType."),
    *("numpy.load.", "numpy.fromfile.", "numpy.memmap.", "numpy.loadtxt.", "numpy.genfromtxt."),
    *("numpy.testing.", "numpy.f2py.", "numpy.distutils.", "numpy.ctypeslib."),
    *("torch.load.", "torch.hub.", "torch.jit.", "torch.serialization.load.", "torch.package."),
    *("torch.storage._load_from_bytes.", "torch.utils.cpp_extension.", "torch.ops."),
)


def reaches_for_the_system(name: str) -> bool:
    """Return whether a name is of the system's functions, or leads to them.

    Args:
        name: The full name, ``module.name``.
    """
    first, *inside = name.split(".")
    return (
        first in _MODULES
        or f"{name}.".startswith(_NAMES)
        or any(part.lstrip("_") in _INSIDE for part in inside[:-1])
        or any(part.startswith("__") and part.endswith("__") for part in inside)
    )
