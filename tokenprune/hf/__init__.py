"""Everything that touches a transformers model, in the order of the data: question, batch, features, splice, hooks."""
