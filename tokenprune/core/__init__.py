"""What pruning is, on tensors alone: features, information, budgets, kinds of parts, strategies, selections, names."""
