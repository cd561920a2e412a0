"""A run and its folder: rows, checkpoints, evaluation, prediction, the loop that trains."""
