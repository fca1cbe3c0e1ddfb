"""The pages for people at the backend's own address, rendered on the server."""
