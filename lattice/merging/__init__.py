"""Merges prepared data sets of different schemas into one, so that one network learns the domains of all."""
