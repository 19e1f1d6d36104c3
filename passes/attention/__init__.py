"""Attention that leaves out what is not needed: sites, masks, break-even, rows in place of padded batches."""
