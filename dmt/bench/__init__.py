"""Benchmark of training step times over slow links, emulated on one machine by Linux network namespaces."""
