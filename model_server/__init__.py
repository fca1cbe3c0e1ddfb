"""The process that owns one device. It knows no Label Studio vocabulary."""
