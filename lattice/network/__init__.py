"""The Lattice network and its layers; a config names it by its factory, `lattice.network:build`."""

from lattice.network.network import build

__all__ = ["build"]
