"""Configs of public data sets: click-through rate, and several domains and objectives."""
