from studies.curves import curves


def test_the_last_evaluation_stands_one_iteration_later():
    rows = [
        {"iteration": 4, "total_loss": 1.0, "lr": 0.1},
        {"iteration": 4, "training/top1_error": 60.0, "classification/top1_error": 70.00004},
        {"iteration": 9, "total_loss": 1.0, "training/top1_error": 50.0},
        {"iteration": 10, "classification/top1_error": float("nan")},
    ]
    assert curves(rows, ["val_error", "train_error", "box_AP"]) == {
        "iteration": [5, 10],
        "val_error": [70.0, None],
        "train_error": [60.0, 50.0],
    }


def test_nothing_was_evaluated():
    assert curves([{"iteration": 4, "total_loss": 1.0}], ["box_AP"]) == {"iteration": []}
    assert curves([], ["box_AP"]) == {"iteration": []}
