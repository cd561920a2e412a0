"""Which features to keep: permutation importance and Pareto selection."""
