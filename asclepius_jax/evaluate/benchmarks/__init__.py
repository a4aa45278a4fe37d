"""The paper's benchmarks, from the files that users hold under their own credentials; notes of these are restricted."""
