"""The train step, the loop around it, optimizers and checkpoints."""
