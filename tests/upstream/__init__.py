"""kombu's and Celery's own tests, run over imagefleet's transport and backend. ``make upstream``."""
