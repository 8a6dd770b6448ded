"""Does pruning keep the answers? Samples, runs that resume, metrics with intervals, reports."""
