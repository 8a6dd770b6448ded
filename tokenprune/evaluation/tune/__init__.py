"""The best composition for a model and questions: a declared space, a search, and a verdict on unseen pictures.

In the order of the data: space (what may be composed), split (which pictures decide what), trial (what a composition
answers), fit (rules and priors estimated from answers), search (compositions, one after the other), verdict (what holds
on pictures that nothing was chosen by), written (files).
"""
