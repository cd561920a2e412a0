"""The Lattice network and its layers; `lattice.network:build` is its factory in configs."""

from lattice.network.network import build

__all__ = ["build"]
