"""The process that owns one device and answers predictions over HTTP. It knows nothing of Label Studio."""
