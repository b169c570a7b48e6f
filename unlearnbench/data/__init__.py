"""Datasets as arrays, their tensors on a device, and which samples are forgotten."""
