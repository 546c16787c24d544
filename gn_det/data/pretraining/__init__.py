"""Datasets of labelled images for the pre-training of backbones."""
