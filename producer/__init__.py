"""The producer: the commands, the dispatcher behind them, and the local fleet."""
