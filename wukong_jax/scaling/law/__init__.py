"""Fitted scaling laws and the compute that two models need for one loss."""
