import pytest

from gn_det.checkpoint.refused_globals import reaches_for_the_system


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.spawn",
        "os.path.join",
        "builtins.eval",
        "builtins.getattr",
        "importlib.metadata.files",
        "multiprocessing.pool.Pool",
        "torch.hub.load",
        "torch.jit._serialization.load",
        "torch.serialization.load",
        "numpy.testing._private.utils.runstring",
        "numpy.core.multiarray.os.system",
        "collections._sys.modules",
        "my.package.Config.__init__",
        "my.package.Config.__globals__.get",
        "code.interact",
        "types.CodeType",
    ],
)
def test_of_the_system(name):
    assert reaches_for_the_system(name)


@pytest.mark.parametrize(
    "name",
    [
        "argparse.Namespace",
        "builtins.dict",
        "builtins.print",
        "collections.defaultdict",
        "pathlib.PosixPath",
        "types.SimpleNamespace",
        "functools.partial",
        "numpy.loader.Loader",
        "numpy.random._pickle.__randomstate_ctor",
        "torch.device",
        "torch.serialization._get_layout",
        "torch.loading.Loader",
        # packages and classes of somebody's own, named like a module of Python's
        "code.train.Config",
        "profile.Config",
        "mypackage.io.Reader",
        "mypackage.os_tools.Config",
        "mypackage.os",
    ],
)
def test_of_others(name):
    assert not reaches_for_the_system(name)
