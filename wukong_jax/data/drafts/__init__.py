"""Drafts schemas: reads raw files once and decides what each column is, with reasons."""
