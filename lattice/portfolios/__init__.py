"""Portfolios, the (domain, objective) pairs of a data set: statistics, affinities, and groups that share a model."""
