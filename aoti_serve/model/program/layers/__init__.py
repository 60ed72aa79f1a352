"""Layers of a program that are computed with prepared weights: which, and what stands in their place.

linears, convolutions and lstms (packed for oneDNN), column_major (turned), int8_linears and int8_layer (quantised);
packing is what they have in common.
"""
