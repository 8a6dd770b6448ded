"""Ways into programs of others: each folder serves one, needs an extra of its own, and nothing here imports it."""
