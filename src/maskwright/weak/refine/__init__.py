"""Maps in, maps out: IRN, the dense CRF, saliency."""
