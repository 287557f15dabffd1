"""TensorFlow Serving: export, client, deployment and a local server. Importing it costs nothing."""
