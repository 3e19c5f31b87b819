"""The metrics of this process for Prometheus. Nothing is counted or imported unless the operator asks for metrics."""
