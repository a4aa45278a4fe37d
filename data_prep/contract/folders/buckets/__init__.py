"""Buckets of S3 and Google Cloud Storage: their objects, and the local copies that commands work on."""
