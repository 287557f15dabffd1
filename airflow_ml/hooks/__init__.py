"""What the Airflow side asks before it sends a request: the platform, its secrets, and what is already there."""
