"""The HTTP server of backend and model server: gunicorn, with a worker whose connections hold no thread."""
