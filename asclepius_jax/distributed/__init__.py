"""Devices and processes as one: the mesh, the job, the lock of a run, compiler flags."""
