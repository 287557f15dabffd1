"""TF Serving's messages through a private descriptor pool: protobuf and nothing heavier."""
