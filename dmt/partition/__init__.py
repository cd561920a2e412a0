"""Which features share a tower: learned from a trained flat run."""
