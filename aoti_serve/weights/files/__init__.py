"""Files of weights: their header and bytes, and the merge of two."""
