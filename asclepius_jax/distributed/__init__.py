"""Running on many devices and processes: mesh, job, run lock and compiler flags."""
