"""Parts of strategies that act between the language model's layers."""
