"""Sizes of each model, from small to large."""
