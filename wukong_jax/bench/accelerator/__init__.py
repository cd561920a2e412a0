"""Checks and measures an accelerator in stages; each stage is a process of its own, with a time limit.

A stage's module provides `list_cases(size)`, the stage's measurements by name. A case that fails, and a stage that dies
or takes too long, is one row with its error; the others still run.
"""
