"""Defines the ladders: the sizes of each model, from small to large."""
