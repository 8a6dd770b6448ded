"""Models one can load: checkpoints, tiny ones with random weights, the one that ships."""
