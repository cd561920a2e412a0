"""Provides embedding tables outside the parameters: layout, gather, sparse update and exchange between devices."""
