"""What a person runs: the commands, the dispatcher behind them, and a fleet on this machine."""
