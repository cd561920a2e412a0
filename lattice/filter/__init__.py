"""Feature selection: permutation importance and Pareto layers over tasks (Lattice Filter)."""
