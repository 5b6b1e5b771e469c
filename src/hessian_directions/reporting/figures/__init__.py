"""Figures: one module each, with `draw(datasets) -> Figure`, or `animate(…, path)` for an animation.

What a figure shows is said by its caption, in `FIGURES`.
None of them imports torch, so figures and paper can be made again from the artifacts on a laptop.
"""
