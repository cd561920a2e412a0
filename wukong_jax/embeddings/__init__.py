"""Embedding tables outside the parameters: layout, gather, sparse update and the exchange between devices."""
