"""A visual token pruner for tokenprune."""
