"""How each method runs on the golden vectors of its reference code (see ``tokenprune.testing.conformance``)."""
