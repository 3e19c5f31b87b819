"""Redis as broker and result backend: transport, acknowledgements, heartbeats, requeues."""
