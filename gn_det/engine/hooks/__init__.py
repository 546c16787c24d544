"""Hooks of a run, as Detectron2 knows them."""
