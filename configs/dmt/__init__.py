"""Configs of DMT: models with embedding towers."""
