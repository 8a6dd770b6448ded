"""Figures for papers: vector PDF and PNG in one style, for one or two columns.

``canvas`` is the style and the files; ``comparison`` draws what was answered, ``speed`` what was timed,
``grids`` what is kept of a picture.
"""
