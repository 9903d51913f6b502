"""Training with several processes, on one mesh of processes with named axes; one module per kind of parallelism."""
