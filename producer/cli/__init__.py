"""The commands: their options, their output and their exit status.

Only these modules print for users. Each command imports its modules when it runs, so that `producer --help` and usage
errors appear at once.
"""
