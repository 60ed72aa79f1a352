"""What staging makes of weights before they answer: a package says how, and a swap goes on bringing plain weights.

recipe is what the package says, as data; preparations has every preparation by its name, each in a module of its own.
A preparation works on rows of one tensor as they arrive, and writes them where the code will read them.
"""
