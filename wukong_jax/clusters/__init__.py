"""Machines that are not here: named clusters, and compiling the train step for them ahead of time."""
