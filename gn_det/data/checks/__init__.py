"""Checks of datasets: a COCO json, its images, its classes; and the repaired copy."""
