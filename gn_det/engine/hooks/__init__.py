"""Hooks of a training run, in Detectron2's sense."""
