"""The commands: one parser, exit codes, a module for each command."""
