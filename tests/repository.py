"""Path of the checkout, for tests that start commands or read its files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
