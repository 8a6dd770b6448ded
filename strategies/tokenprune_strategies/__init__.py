"""Strategies that ship with tokenprune, one file a method; registered like anybody's plugin, by entry points."""
