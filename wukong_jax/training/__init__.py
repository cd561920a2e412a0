"""Builds the network, loss, optimizers and train step of a run, and runs the training loop."""
