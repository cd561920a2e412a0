"""The commands: flags, help, exit codes and one-line errors."""
