"""Trains on a log period by period: each is scored, then trained on, with tables of few rows for ids without end."""
