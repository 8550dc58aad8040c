"""The label basis: eigenvalues, subspace, errors, and the labels that come back through it, by both ways of fitting."""

import numpy as np
import torch

from maskwright.metrics import ConfusionMatrix
from maskwright.models.dupsampling import compress_labels, dupsample_argmax
from maskwright.models.dupsampling_fit import fit_label_basis, label_patches

UNUSED = {"names": "descriptions"}
FIELDS = {
    "labels",
    "cfg",
    "num_patches_used",
    "eigenvalues_top",
    "basis_W",
    "mean_sq_error_per_patch",
    "mean_sq_error_per_patch_centred",
    "reconstruction_pixel_acc",
    "reconstruction_miou",
}


def check(arrays):
    cases = sorted({key.split("__")[0] for key in arrays if "__" in key})
    assert cases
    for case in cases:
        fields = {key.split("__")[1]: value for key, value in arrays.items() if key.startswith(f"{case}__")}
        assert set(fields) == FIELDS, set(fields) ^ FIELDS
        classes, ratio, dim = (int(value) for value in fields["cfg"])
        patches = label_patches(fields["labels"], ratio, classes)
        assert patches.used == int(fields["num_patches_used"])
        top = fields["eigenvalues_top"]
        space = fields["basis_W"] @ fields["basis_W"].T
        for dense in (True, False):
            where = {"dense": dense, "tolerance": 1e-10}
            found = fit_label_basis(patches, len(top), **where).eigenvalues
            np.testing.assert_allclose(found, top, rtol=1e-6, atol=1e-12 * top[0])
            basis = fit_label_basis(patches, dim, **where)
            np.testing.assert_allclose(basis.weight @ basis.weight.T, space, rtol=0, atol=1e-5)
            np.testing.assert_allclose(basis.error, fields["mean_sq_error_per_patch"], rtol=1e-6)
            centred = fit_label_basis(patches, dim, centred=True, **where)
            np.testing.assert_allclose(centred.error, fields["mean_sq_error_per_patch_centred"], rtol=1e-6)
            labels = torch.from_numpy(fields["labels"].astype(np.int64))
            weight = torch.from_numpy(basis.weight)
            coordinates = compress_labels(labels, weight, classes, ratio)
            predicted = dupsample_argmax(coordinates, weight, classes, ratio)
            confusion = ConfusionMatrix(classes)
            confusion.update(predicted[:, : labels.shape[1], : labels.shape[2]], labels)
            scores = confusion.scores()
            np.testing.assert_allclose(scores["miou"], fields["reconstruction_miou"], rtol=0, atol=2e-3)
            np.testing.assert_allclose(scores["pixel_accuracy"], fields["reconstruction_pixel_acc"], rtol=0, atol=2e-3)
