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


def task(limit=100, **more):
    """Return the results of a task with average recall."""
    ap = {"AP": 12.0, "AP50": 30.0, "AP75": 4.0, "APs": 1.0, "APm": 2.0, "APl": 3.0}
    recall = {f"AR@{n}": float(n) for n in (1, 10, limit)}
    return {**ap, **recall, f"ARs@{limit}": 5.5, f"ARm@{limit}": 6.5, f"ARl@{limit}": 7.5, **more}


def test_average_recall_and_the_number_of_detections():
    table = results_table({"bbox": task(156), "segm": task(156)}, "mask_rcnn_R50_gn_all.yaml")
    ap, recall, limits = table.split("\n\n")
    assert len(ap.splitlines()) == 6
    lines = recall.splitlines()
    assert lines[0].split() == ["AR@1", "AR@10", "AR@156", "ARs@156", "ARm@156", "ARl@156"]
    assert lines[2].split() == ["box", "1.0", "10.0", "156.0", "5.5", "6.5", "7.5"]
    assert lines[3].split()[0] == "mask"
    assert limits == "AP and AR count at most 156 detections of a class on an image."
    assert max(map(len, table.splitlines())) <= 80


def test_keypoints_and_test_time_augmentation():
    keypoints = {"AP": 9.0, "AP50": 8.0, "AP75": 7.0, "APm": 6.0, "APl": 5.0, "AR@20": 4.0}
    table = results_table({"bbox": task(), "bbox_TTA": task(), "keypoints": keypoints})
    ap, recall, of_keypoints, limits = table.split("\n\n")
    assert ap.splitlines()[3].split()[:4] == ["box,", "TTA", "measured", "12.0"]
    last = ["keypoints", "measured", "9.0", "8.0", "7.0", "-", "6.0", "5.0"]
    assert ap.splitlines()[4].split() == last
    assert len(recall.splitlines()) == 4
    assert of_keypoints.splitlines()[2].split() == ["keypoints", "4.0"]
    assert "count at most 100 (box, box, TTA), 20 (keypoints) detections of a class" in limits


def test_other_tasks_have_their_own_columns():
    results = {
        "sem_seg": {"mIoU": 50.0, "IoU-sky": 60.0, "pACC": 70.0, "ACC-sky": 80.0},
        "panoptic_seg": {"PQ": 1.0, "SQ": 2.0, "PQ_th": 3.0},
        "box_proposals": {"AR@100": 10.0, "ARs@100": 20.0, "AR@1000": 30.0},
    }
    semantic, panoptic, proposals = (t.splitlines() for t in results_table(results).split("\n\n"))
    assert (semantic[0].split(), semantic[2].split()) == (
        ["mIoU", "pACC"],
        ["semantic", "50.0", "70.0"],
    )
    assert panoptic[2].split() == ["panoptic", "1.0", "2.0", "3.0"]
    assert proposals[0].split() == ["AR@100", "ARs@100", "AR@1000"]
    lines = per_class_table(results).splitlines()
    assert lines[0].split() == ["class", "semantic", "IoU"]
    assert lines[2].split() == ["sky", "60.0"]
    del results["sem_seg"]
    assert per_class_table(results) == "Nothing was measured by class."
    assert results_table({}) == ""


def test_panoptic_has_classes_of_both_kinds():
    results = {"sem_seg": {"mIoU": 5.0, "IoU-sky": 6.0}, "bbox": task(**{"AP-cat": 7.0})}
    lines = per_class_table(results).splitlines()
    assert lines[2].split() == ["sky", "6.0", "-"]
    assert lines[3].split() == ["cat", "-", "7.0"]


def test_lvis_has_more_columns():
    table = results_table({"bbox": {"AP": 1.0, "APl": -100.0, "APr": 2.0, "APc": 3.0, "APf": 4.0}})
    assert "-100" not in table
    assert table.splitlines()[0].split()[-3:] == ["APr", "APc", "APf"]
    assert table.splitlines()[2].split()[-3:] == ["2.0", "3.0", "4.0"]
