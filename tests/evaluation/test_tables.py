from gn_det.evaluation import per_class_table, results_table

RESULTS = {
    "bbox": {"AP": 12.34, "AP50": 30.0, "APl": float("nan"), "AP-cat": 5.0, "AP-dog": 19.7},
    "segm": {"AP": 10.0, "AP50": 25.0, "APl": float("nan"), "AP-cat": 4.0, "AP-dog": 16.0},
}


def test_ours_beside_the_papers_row():
    lines = results_table(RESULTS, "mask_rcnn_R50_gn_all.yaml").splitlines()
    assert lines[0].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert lines[2].split() == ["box", "measured", "12.3", "30.0", "-", "-", "-", "-"]
    assert lines[3].split() == ["box", "R50", "GN", "40.3", "61.0", "44.0", "-", "-", "-"]
    assert lines[5].split()[:4] == ["mask", "R50", "GN", "35.7"]


def test_config_of_ones_own_has_no_row():
    assert len(results_table(RESULTS, "my.yaml").splitlines()) == 4
    assert len(results_table(RESULTS).splitlines()) == 4


def test_row_without_published_mask_ap():
    table = results_table(RESULTS, "scratch_mask_rcnn_R50_syncbn.yaml")
    assert "34.5" in table
    assert len(table.splitlines()) == 5


def test_per_class():
    lines = per_class_table(RESULTS).splitlines()
    assert lines[0].split() == ["class", "box", "AP", "mask", "AP"]
    assert lines[2].split() == ["cat", "5.0", "4.0"]
    assert lines[3].split() == ["dog", "19.7", "16.0"]
