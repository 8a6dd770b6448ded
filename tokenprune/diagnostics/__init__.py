"""Whether pruning takes place on a model, and keeps its laws."""
