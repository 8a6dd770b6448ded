"""The parts strategies are made of: abstract kinds (``base``) and the reusable ones."""
