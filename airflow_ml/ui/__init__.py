"""What this package adds to Airflow's own processes: reports in the API server, notes in the scheduler."""
