"""Step times over emulated slow links: network namespaces on one machine."""
