"""Generators whose true probabilities, and so whose best possible loss, are known."""
