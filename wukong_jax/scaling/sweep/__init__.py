"""A sweep: its settings, its units (one training each) and the points that they give."""
