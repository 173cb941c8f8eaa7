"""What a connected board is asked and told."""
