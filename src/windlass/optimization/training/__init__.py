"""Training of networks: one loop, what it learns from, and the way back to a form.

Called by the techniques that train. Must never change the network it was given.
"""
