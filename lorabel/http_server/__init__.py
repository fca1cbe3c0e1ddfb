"""The HTTP server of the backend and the model server: gunicorn, with a worker whose connections hold no thread."""
