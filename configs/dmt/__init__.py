"""DMT: models behind embedding towers."""
