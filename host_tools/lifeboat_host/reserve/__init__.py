"""Where a region may go, taking the place, and giving it back."""
