"""The mesh and what is placed on it."""
