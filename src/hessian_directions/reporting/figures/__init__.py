"""Figures: one module each, with `draw(datasets) -> Figure` or `animate(…, path)`.

None of them imports torch, so figures and paper can be made again from the artifacts on a laptop.
"""
