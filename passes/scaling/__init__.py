"""Moving scales through a graph without changing what it computes: what quantization rounds is made easier to round."""
