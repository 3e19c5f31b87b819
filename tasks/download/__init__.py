"""Download one URL: addresses, connections, requests, redirects and retries."""
