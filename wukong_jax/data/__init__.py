"""Raw files to row blocks to batches, and the generator whose answer is known."""
