"""What a worker runs. Start one with ``celery -A tasks worker``; nothing here imports the producer."""
