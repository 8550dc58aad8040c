"""The dense CRF (`dense_crf.dense_crf`): a true high-dimensional filter on a permutohedral lattice."""
