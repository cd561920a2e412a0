"""(domain, objective) portfolios: counts, affinities, groups, and a model for each group."""
