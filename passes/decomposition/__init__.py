"""Low-rank decomposition: layers as chains of cheaper ones. The passes are `decompose`, `truncate-factors` and
`merge-linear`."""
