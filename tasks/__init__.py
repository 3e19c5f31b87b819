"""The code of a worker. Start one with ``celery -A tasks worker``. Nothing here imports the producer."""
