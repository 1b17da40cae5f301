"""What an engine is to Daulat: a launch recipe, counters, and the dialect that its requests need."""
