"""Each method whole, on one page: what its strategy composes of parts, written out as a plain loop for one image.

Signals come without the batch axis, under the names that :data:`tokenprune.SIGNALS` gives them; ``keep`` is the
budget; options are named as the strategy's. A reference returns positions in the order picked, (K,), and where the
method merges also the tokens, in the order in which they enter the language model. Speed is no aim: tests hold each
strategy to its reference, and benchmarks time what such loops cost.
"""
