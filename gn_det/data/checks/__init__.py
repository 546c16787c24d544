"""Checks of a dataset: its json, its images, a config's datasets; and the fixed copy.

Where to look:
    kinds.py: all that can be wrong. A new kind of problem begins here.
    records.py, rle.py: checks of one record.
    json_reader.py, coco_json.py: reading a json, and checks of it as a whole.
    images.py: checks of the image files.
    report.py: what was found.
    fix_annotation.py, fixed_copy.py: what ``--fix`` does.
    config_datasets.py: checks of the datasets that a config names.
"""
