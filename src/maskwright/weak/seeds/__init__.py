"""Seed methods: views of images in, maps of tagged classes out."""
