import cv2

from gn_det.evaluation import plot_metrics
from gn_det.evaluation.plots import read_metrics

LINES = """\
{"iteration": 19, "total_loss": 3.0, "loss_mask": 0.7}
{"iteration": 39, "total_loss": 2.0, "loss_mask": 0.6, "bbox/AP50": 10.0, "segm/AP50": 8.0}
{"iteration": 59, "total"""


def test_line_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / "metrics.json").write_text(LINES)
    assert [row["iteration"] for row in read_metrics(tmp_path / "metrics.json")] == [19, 39]


def test_plot_is_drawn(tmp_path):
    (tmp_path / "metrics.json").write_text(LINES)
    plot_metrics(tmp_path / "metrics.json", tmp_path / "plot.png")
    image = cv2.imread(str(tmp_path / "plot.png"))
    assert image.shape[1] == 1200
    left, right = image[:, :600], image[:, 600:]
    for half in (left, right):  # both have lines in colour, not axes alone
        assert (half.max(axis=2).astype(int) - half.min(axis=2) > 60).sum() > 100


def test_run_without_evaluation(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "total_loss": 3.0}\n')
    plot_metrics(tmp_path / "metrics.json", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
