"""Trains, evaluates and reopens runs: their folders, rows, checkpoints, logs and predictions."""
