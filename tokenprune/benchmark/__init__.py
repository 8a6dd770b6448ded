"""What pruning saves: FLOPs, cache bytes, tokens a layer, time."""
