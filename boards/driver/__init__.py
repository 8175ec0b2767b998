"""The driver of the accelerator on a board. It needs Python 3.10 and NumPy, and nothing else.

In the repository it is :mod:`moevit.boards.driver`; in a bundle it is the package
``moevit_driver`` (:mod:`moevit.boards.shipping`), which a board imports without moevit.
"""
