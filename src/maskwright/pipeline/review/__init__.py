"""`maskwright review`: a page on this machine where a person corrects the least certain pseudo-masks of a run."""
