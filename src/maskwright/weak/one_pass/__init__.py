"""Images to masks in one pass in memory, part by part of a set: for sets whose maps would not fit on a disk."""
