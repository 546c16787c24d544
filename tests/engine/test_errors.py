import pytest

from gn_det.checkpoint import WeightsError
from gn_det.config import ConfigError
from gn_det.data import DatasetError
from gn_det.engine import NonFiniteError, exit_on_error
from gn_det.utils import SaveError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("a wrong key"), 2),
        (DatasetError("a wrong json"), 2),
        (WeightsError("a wrong file"), 2),
        (FileNotFoundError("no file"), 2),
        (SaveError("no room"), 1),
        (NonFiniteError(7, "NaN"), 1),
    ],
)
def test_expected_errors_are_one_line_and_a_status(error, status, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, PermissionError])
def test_other_errors_pass(error, capsys):
    with pytest.raises(error), exit_on_error():
        raise error
    assert capsys.readouterr().err == ""
