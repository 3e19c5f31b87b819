"""The code of a worker. Start a worker with ``celery -A tasks worker``. No module here imports the producer."""
