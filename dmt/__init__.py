"""Disaggregated multi-tower: embedding towers placed on the data centre's own hierarchy."""
