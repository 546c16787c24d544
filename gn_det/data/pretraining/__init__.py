"""Labelled images and clips for the pre-training of backbones.

A new source is a module with a function like :func:`fashion_mnist.fashion_mnist`, and an entry in
``SOURCES`` of sources.py.
"""
