"""Generates synthetic ("planted") data with known true probabilities, so that the best possible loss is known."""
