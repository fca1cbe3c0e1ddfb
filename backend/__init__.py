"""Flask: what Label Studio and the ML engineer talk to. No torch in this process."""
