"""Disaggregated multi-tower (DMT): embedding towers that follow the network hierarchy of the data centre."""
